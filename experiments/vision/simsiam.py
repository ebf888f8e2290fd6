"""SimSiam: exploring simple siamese representation learning (Chen & He 2021, arXiv:2011.10566).

A predictor follows the other view's projection, through which no gradient flows: no teacher, no negatives. Numbers are
those of the released code (facebookresearch/simsiam: main_simsiam.py, simsiam/builder.py) with ``--fix-pred-lr``: the
rate of the predictor stays constant. Its loss is half of minus the cosine each way. The term here, a quarter of the
squared distance of unit rows, has the same gradient, and is 1 more over both ways. Unlike there, gains of the residual
branches begin at 1; rates fall at every step and not at every epoch; kernels begin normal; running statistics move once
a step, by the mean of the views; jitter has one order; crops are resized bilinearly, from pictures that are squashed to
a square of 256 pixels.

``jaxrep train simsiam:tiny`` takes about 2 minutes on two cores.
"""

from experiments import common
from experiments.vision import mixed_barlow
from jaxrep import Data, Recipe, encoders, methods, objectives, optim, schedules, views

BATCH = 512
JITTER = views.ColorJitter("image", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8)
QUARTER = schedules.Constant(value=0.25)


def falling(warmup: int = 0) -> tuple[optim.LearningRateSchedule, ...]:
    """Return rules by which the rates of encoder and projector fall along a cosine; the predictor's stays constant."""
    cosine = schedules.WarmupCosine(peak=1.0, warmup_steps=warmup)
    return tuple(optim.LearningRateSchedule(path=f"{part}/**", factor=cosine) for part in ("image", "projector"))


recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=BATCH, workers=16, texts=()),
    views=mixed_barlow.twins(224, 0.2, blur=(0.5, 0.5), solarize=0.0, jitter=JITTER),
    # Batch norm in the encoder is over the whole batch: this recipe takes no microbatches.
    method=methods.Siamese(
        image=encoders.ResNet.resnet50(),
        projector=methods.Projector(widths=(2_048, 2_048, 2_048), last_norm=True, last_gain=False, momentum=0.9),
        predictor=methods.Projector(widths=(512, 2_048), bias=True, momentum=0.9),
        targets=("a", "b"),
    ),
    objective={
        "a_to_b": objectives.Alignment("a/predicted", "b/target", weight=QUARTER),
        "b_to_a": objectives.Alignment("b/predicted", "a/target", weight=QUARTER),
    },
    # Decay is that of torch's SGD: of vectors too.
    optimizer=optim.Sgd(
        weight_decay=schedules.Constant(value=1e-4), rules=(optim.WeightDecay(path="**", factor=1.0), *falling())
    ),
    schedule=schedules.Constant(value=0.05 * BATCH / 256),
    epochs=100,
    evals=mixed_barlow.recipe.evals,
)

tiny = common.small(recipe, 600, rules=falling(20)).replace(
    {
        "method.image": common.CONVOLUTIONS,
        "method.projector": methods.Projector(widths=(256, 128), last_norm=True, last_gain=False),
        "method.predictor": methods.Projector(widths=(32, 128), bias=True),
    },
    views=mixed_barlow.SMALL,
    schedule=schedules.Constant(value=3e-3),
)
