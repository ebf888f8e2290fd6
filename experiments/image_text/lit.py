"""LiT: a text tower learns to read out a locked image tower (Zhai et al. 2022, arXiv:2111.07991).

``jaxrep train lit:tiny`` takes about 2 minutes on two cores, after the training of ``clip:tiny`` that it starts from.
Its effect was not measured.
"""

from experiments import common
from experiments.image_text import clip
from jaxrep import Data, From, Pretrained, Recipe, data, encoders, methods, objectives, optim, schedules, views

STEPS, BATCH = 60_000, 16_384  # the released models on public data

LOCKED = (optim.Freeze(path="image/**"),)
"""The image tower has no gradients."""
TABLES = ("embedding", "positions", "segments")
"""Parameters of the text tower that are no kernels. They are not decayed."""

# The public model of highest accuracy, L16L. Rate, warm-up, temperature, clipping, Adafactor's numbers, decay of
# kernels only, squashed pictures, flips, 16 tokens, the class token and a head with bias were read in the released code
# (google-research/big_vision: configs/proj/image_text/lit_coco.py, optax.py, models/proj/). Its weight decay of 0.01 is
# that of a demonstration; here it is 1e-4 per step at the peak. Batch size, steps and weight decay could not be checked
# against the paper's text. There Adafactor's decay is at most 0.999, texts have no [SEP] at their end, and pictures
# have RandAugment(2, 10).
recipe = Recipe(
    data=Data(
        # CC12M and the captions of YFCC100M: point this at shards of your own.
        train=data.TarShards(shards="gs://YOUR-BUCKET/cc12m-yfcc100m/{00000..09999}.tar", crop=data.HostResize()),
        batch_size=BATCH,
        tokenizer=data.TokenizerFile(
            path="bert-large-uncased/tokenizer.json", length=16, entries=30_522, clean="lower"
        ),
        order=common.lanes(32),
    ),
    views=(views.RandomHorizontalFlip("image"),),
    method=methods.DualEncoder(
        # The locked tower has no head: the joint space is that of its features.
        towers={
            "image": encoders.ViT.l14(stem=encoders.PatchStem(patch=16), norm_epsilon=1e-12),
            "text": encoders.Bert.large(pool="cls"),
        },
        heads={"image": methods.Identity(), "text": methods.Linear(features=1024, bias=True)},
        dim=1024,
        scale=methods.LogitScale(init=10.0, max=1_000.0),  # no limit is stated
    ),
    objective={"contrastive": objectives.Contrastive("image", "text")},
    optimizer=optim.Adafactor(
        momentum=0.9,
        clip_rms=0.0,
        relative=False,
        min_factored=32,
        weight_decay=schedules.Constant(value=0.1),  # the rate multiplies it
        clip_norm=1.0,
        rules=(*LOCKED, *(optim.WeightDecay(path=f"text/{name}", factor=0.0) for name in TABLES)),
    ),
    schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=STEPS * 3 // 100),
    examples=STEPS * BATCH,
    # Public checkpoints in folders of these names: a ViT trained on ImageNet-21k, and BERT.
    init={"image": Pretrained("vit-large-patch16-224-in21k"), "text": Pretrained("bert-large-uncased")},
    checkpoint=clip.recipe.checkpoint,
)

# The image tower was trained on these pictures with their captions. The text tower starts anew.
tiny = clip.tiny.replace(
    {"method.heads": {"image": methods.Identity()}, "optimizer.rules": LOCKED},
    init={"image": From(clip.tiny)},
    examples=300 * 256,
    seed=1,
)
