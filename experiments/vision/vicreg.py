"""VICReg: variance-invariance-covariance regularization (Bardes et al. 2022, arXiv:2105.04906).

Both views' features agree, no feature's deviation over the batch falls below 1, and different features do not covary.
Numbers are those of the released command for 100 epochs (facebookresearch/vicreg: README.md, main_vicreg.py,
augmentations.py); ``recipe_1000`` has those for 1,000. Each view has half of the weight of the deviations. Unlike
there, gains of the residual branches begin at 1, running statistics of the encoder move once a step, the first layers
of the expander have no bias before their batch norm (which would take it away), jitter has one order, and crops are
resized bilinearly, from pictures that are squashed to a square of 256 pixels.

``jaxrep train vicreg:tiny`` takes about 2 minutes on two cores.
"""

from experiments import common
from experiments.vision import mixed_barlow
from jaxrep import Data, Recipe, encoders, evals, methods, objectives, optim, schedules

BATCH, PICTURES = 512, 1_281_167  # of ImageNet


def terms() -> dict[str, objectives.Term]:
    """Return the loss: 25 x invariance + 25 x variance + 1 x covariance."""
    half = schedules.Constant(value=25.0 / 2)
    return {
        "invariance": objectives.MeanSquare("a", "b", weight=schedules.Constant(value=25.0)),
        **{f"variance_{view}": objectives.Variance(view, weight=half) for view in "ab"},
        **{f"covariance_{view}": objectives.Covariance(view) for view in "ab"},
    }


def rate(base: float, batch: int) -> schedules.WarmupCosine:
    """Return the schedule of a base rate per 256 pictures."""
    peak = base * batch / 256
    return schedules.WarmupCosine(peak=peak, warmup_steps=10 * (PICTURES // batch), end=peak * 0.001)


recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=BATCH, workers=16, texts=()),
    views=mixed_barlow.twins(224, 0.08, blur=(1.0, 0.1), solarize=0.2),
    # Batch norm in the encoder is over the whole batch: this recipe takes no microbatches.
    method=methods.Siamese(image=encoders.ResNet.resnet50(), projector=methods.Projector(widths=(8_192, 8_192, 8_192))),
    objective=terms(),
    optimizer=optim.Lars(weight_decay=schedules.Constant(value=1e-6)),
    schedule=rate(0.3, BATCH),
    epochs=100,
    evals=tuple(
        kind(train=mixed_barlow.imagenet("train"), data=mixed_barlow.imagenet("val"))
        for kind in (evals.LinearProbe, evals.Knn)
    ),
)

recipe_1000 = recipe.replace({"data.batch_size": 2_048}, schedule=rate(0.2, 2_048), epochs=1_000)

tiny = common.small(recipe, 600).replace(
    views=mixed_barlow.SMALL,
    method=methods.Siamese(image=common.CONVOLUTIONS, projector=methods.Projector(widths=(256, 256))),
)
