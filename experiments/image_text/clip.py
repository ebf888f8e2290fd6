"""CLIP: Learning Transferable Visual Models From Natural Language Supervision (Radford et al. 2021, arXiv:2103.00020).

``jaxrep train clip:tiny`` takes about 2.5 minutes on two cores. Among 398 held-out pairs it finds the text of an image
first in 88.2% to 89.9% of cases and the image of a text in 91.2% to 92.2% (R@1, seeds 0 to 2; chance is 0.25%).
"""

from experiments import common
from jaxrep import Checkpointing, Data, From, Recipe, data, encoders, methods, objectives, optim, schedules, views

PAIRS = 400_000_000  # section 2.2


def pairs(size: int) -> data.TarShards:
    """Return the 400 million pairs of the paper. They are not public: point this at shards of your own."""
    return data.TarShards(shards="gs://YOUR-BUCKET/pairs/{00000..39999}.tar", image_size=size)


# Initial values of positions, class token, projections and of the text tower were read in the released code
# (openai/CLIP, clip/model.py). There the blocks of the image tower start as PyTorch's layers do; here as the text
# tower's, and patches with three times the variance.
recipe = Recipe(
    data=Data(
        train=pairs(256),  # the paper does not give the size before the crop
        batch_size=32_768,  # table 18
        tokenizer=data.ClipBpe(vocabulary="bpe_simple_vocab_16e6.txt.gz", length=77),  # 49,408 ids
        order=common.lanes(32),
    ),
    views=(views.RandomSquareCrop("image", size=224),),  # section 2.3: the only augmentation
    method=methods.DualEncoder(
        # Table 20 and section 2.4.
        towers={"image": encoders.ViT.b16().as_clip(), "text": encoders.TextTransformer.clip_b()},
        dim=512,
        scale=methods.LogitScale(init=1 / 0.07, max=100),  # section 2.5, table 18
    ),
    objective={"contrastive": objectives.Contrastive("image", "text")},
    optimizer=optim.AdamW(b2=0.98, eps=1e-6, weight_decay=schedules.Constant(value=0.2)),  # table 18, of the ViTs
    schedule=schedules.WarmupCosine(peak=5e-4, warmup_steps=2_000),  # tables 18 and 20
    examples=32 * PAIRS,  # 32 epochs, table 18
    checkpoint=Checkpointing(every_steps=2_000),
)

vit_b16 = recipe

vit_b32 = recipe.replace({"method.towers.image": encoders.ViT.b32().as_clip()})

vit_l14 = recipe.replace(
    {
        "method.towers.image": encoders.ViT.l14().as_clip(),
        "method.towers.text": encoders.TextTransformer.clip_l(),
        "method.dim": 768,
        "schedule.peak": 4e-4,
    }
)

# One more epoch at a higher resolution (section 3.2). The learning rate is that of table 20.
vit_l14_336 = vit_l14.replace(
    {"data.train": pairs(384), "views.0.size": 336, "schedule.peak": 2e-5},
    examples=PAIRS,
    init={part: From(vit_l14, part) for part in ("image", "text", "image_head", "text_head", "scale")},
)

tiny = recipe.replace(
    {"optimizer.weight_decay": schedules.Constant(value=0.5), "optimizer.clip_norm": 1.0},
    data=Data(train=common.emoji(), batch_size=256, tokenizer=data.Words(length=13)),
    views=(common.SHIFT, common.JITTER),
    method=methods.DualEncoder(towers={"image": common.IMAGE, "text": common.TEXT}, dim=96),
    objective={"contrastive": objectives.Contrastive("image", "text", duplicates="ignore", ids=common.IDS)},
    schedule=schedules.WarmupCosine(peak=3e-3, warmup_steps=50),
    examples=800 * 256,
    evals=common.classify(common.emoji("test")),
    checkpoint=Checkpointing(every_steps=100),
)
