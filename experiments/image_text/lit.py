"""LiT: a text tower learns to read out a locked image tower (Zhai et al. 2022, arXiv:2111.07991).

``jaxrep train lit:tiny`` takes about 2 minutes on two cores, after the training of ``clip:tiny`` that it starts from.
Its effect was not measured.
"""

from experiments.image_text import clip
from jaxrep import Data, From, Pretrained, Recipe, data, encoders, methods, objectives, optim, schedules, views

STEPS, BATCH = 60_000, 16_384  # the released models on public data

LOCKED = (optim.Freeze(path="image/**"),)
"""The image tower has no gradients."""

# The public model of highest accuracy, L16L. Towers, schedule, temperature, clipping and 16 tokens are those of the
# released code (big_vision, configs/proj/image_text). Batch size, weight decay and Adafactor's details could not be
# checked against the paper's text.
recipe = Recipe(
    data=Data(
        # CC12M and the captions of YFCC100M: point this at shards of your own.
        train=data.TarShards(shards="gs://YOUR-BUCKET/cc12m-yfcc100m/{00000..09999}.tar", image_size=224),
        batch_size=BATCH,
        tokenizer=data.TokenizerFile(
            path="bert-large-uncased/tokenizer.json", length=16, entries=30_522, clean="lower"
        ),
    ),
    views=(views.RandomHorizontalFlip("image"),),
    method=methods.DualEncoder(
        # The locked tower has no head: the joint space is that of its features.
        towers={
            "image": encoders.ViT.l14(stem=encoders.PatchStem(patch=16), norm_epsilon=1e-12),
            "text": encoders.Bert.large(pool="cls"),
        },
        heads={"image": methods.Identity()},
        dim=1024,
        scale=methods.LogitScale(init=10.0, max=1_000.0),  # no limit is stated
    ),
    objective={"contrastive": objectives.Contrastive("image", "text")},
    optimizer=optim.Adafactor(
        momentum=0.9,
        clip_rms=0.0,
        relative=False,
        min_factored=32,
        # The paper has 1e-4 at a learning rate of 1e-3, which does not multiply it.
        weight_decay=schedules.Constant(value=0.1),
        clip_norm=1.0,
        rules=LOCKED,
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
