"""MoCo v2: improved baselines with momentum contrastive learning (Chen et al. 2020, arXiv:2003.04297).

A query is told from the keys of earlier steps by its own key, of an average of the encoder. Preset ``v3`` is MoCo v3
(Chen et al. 2021, arXiv:2104.02057): a predictor, and the batch's keys alone, in both directions. Numbers are those of
the released code (facebookresearch/moco: README.md, main_moco.py, moco/builder.py; facebookresearch/moco-v3: CONFIG.md,
main_moco.py, moco/builder.py, vits.py). Unlike there, rates of v2 fall at every step and not at every epoch; v2's
running statistics are the mean over groups of rows, and not those of one GPU; v3 takes its momentum one step earlier,
and gains of its residual branches begin at 1; kernels begin normal; jitter has one order; crops are resized bilinearly,
from pictures that are squashed to a square of 256 pixels.

``jaxrep train moco:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import mixed_barlow
from jaxrep import Data, Recipe, encoders, methods, objectives, optim, schedules, views

EPOCH = 1_281_167 // 4_096  # steps of an epoch of ImageNet, of v3
JITTER = views.ColorJitter("image", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8)


def temperature(value: float) -> methods.LogitScale:
    """Return the fixed inverse of a temperature."""
    return methods.LogitScale(init=1 / value, trainable=False)


def both(value: float) -> dict[str, objectives.Term]:
    """Return v3's loss: both directions in the batch, each times twice the temperature."""
    twice = schedules.Constant(value=2 * value)
    return {
        f"{x}_to_{y}": objectives.Contrastive(f"{x}/predicted", f"{y}/target", direction="a_to_b", weight=twice)
        for x, y in ("ab", "ba")
    }


def mlp(*widths: int) -> methods.Projector:
    """Return a head of v3: batch norm after every layer, the last one without gain."""
    return methods.Projector(widths=widths, last_norm=True, last_gain=False, momentum=0.9)


recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=256, workers=16, texts=()),
    views=mixed_barlow.twins(224, 0.2, blur=(0.5, 0.5), solarize=0.0, jitter=JITTER),
    # Batch norm over groups, as on eight GPUs; the keys' groups are others, so that statistics tell no key.
    method=methods.Siamese(
        image=encoders.ResNet.resnet50(norm=encoders.BatchNorm(groups=8)),
        projector=methods.Projector(widths=(2_048, 128), norm="none", bias=True),
        views=("a",),
        targets=("b",),
        teacher=methods.Ema(of=("image", "projector"), momentum=schedules.Constant(value=0.999)),
        memory=methods.Queue(size=65_536, width=128, of="b/target"),
        scale=temperature(0.2),
        shuffle=True,
    ),
    objective={
        "moco": objectives.Contrastive("a", "b/target", extra_b="queue", direction="a_to_b", in_batch=False),
    },
    # Decay is that of torch's optimizers: of vectors too.
    optimizer=optim.Sgd(weight_decay=schedules.Constant(value=1e-4), rules=(optim.WeightDecay(path="**", factor=1.0),)),
    schedule=schedules.WarmupCosine(peak=0.03),
    epochs=200,
    evals=mixed_barlow.recipe.evals,
)

# ViT-S has the numbers of ViT-B (encoders.ViT.b16).
v3 = recipe.replace(
    {"data.batch_size": 4_096},
    views=mixed_barlow.twins(224, 0.08, blur=(1.0, 0.1), solarize=0.2),
    method=methods.Siamese(
        image=encoders.ViT.s16(heads=12, positions="sincos", norm_epsilon=1e-6, pixels=encoders.PixelNorm.imagenet()),
        projector=mlp(4_096, 4_096, 256),
        predictor=mlp(4_096, 256),
        targets=("a", "b"),
        teacher=methods.Ema(of=("image", "projector"), momentum=schedules.Cosine(start=0.99, end=1.0)),
        scale=temperature(0.2),
    ),
    objective=both(0.2),
    optimizer=optim.AdamW(
        weight_decay=schedules.Constant(value=0.1),
        rules=(optim.WeightDecay(path="**", factor=1.0), optim.Freeze(path="image/stem/**")),
    ),
    schedule=schedules.WarmupCosine(peak=1.5e-4 * 4_096 / 256, warmup_steps=40 * EPOCH),
    epochs=300,
)

v3_resnet = v3.replace(
    {
        "method.image": encoders.ResNet.resnet50(),
        "method.projector": mlp(4_096, 256),
        "method.predictor": methods.Projector(widths=(4_096, 256), momentum=0.9),
        "method.scale": temperature(1.0),
    },
    views=mixed_barlow.twins(224, 0.2, blur=(1.0, 0.1), solarize=0.2),
    objective=both(1.0),
    optimizer=optim.Lars(weight_decay=schedules.Constant(value=1e-6)),
    schedule=schedules.WarmupCosine(peak=0.6 * 4_096 / 256, warmup_steps=10 * EPOCH),
    epochs=100,
)

# The queue holds the keys of the last eight steps, and the average is that of about fifty.
tiny = common.small(recipe, 600).replace(
    {
        "method.image": replace(common.CONVOLUTIONS, norm=encoders.BatchNorm(groups=8)),
        "method.projector.widths": (256, 64),
        "method.teacher.momentum.value": 0.98,
        "method.memory": methods.Queue(size=1_024, width=64, of="b/target"),
    },
    views=mixed_barlow.SMALL,
)
