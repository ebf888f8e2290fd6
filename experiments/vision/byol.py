"""BYOL: bootstrap your own latent (Grill et al. 2020, arXiv:2006.07733).

A student predicts the projection of the other view by its own moving average; there are no negatives. Numbers are those
of the released code (google-deepmind/deepmind-research, byol/: main_loop.py, configs/byol.py, byol_experiment.py,
utils/networks.py, utils/dataset.py, utils/augmentations.py, utils/schedules.py), which has presets by the number of
epochs: 1,000 here and 100 in ``recipe_100``. Its loss is the sum over both directions of the squared distance of unit
rows. Unlike there, gains of the residual branches begin at 1; the average begins as the student; no classifier is
trained beside; running statistics move once a step, by the mean of the views; blurs end 6 pixels from a pixel and not
11; jitter has one order; crops are resized bilinearly, from pictures that are squashed to a square of 256 pixels.

``jaxrep train byol:tiny`` takes about 2 minutes on two cores.
"""

from experiments import common
from experiments.vision import mixed_barlow
from jaxrep import Data, Recipe, encoders, methods, objectives, optim, schedules

BATCH, PICTURES = 4_096, 1_281_167  # of ImageNet
MLP = methods.Projector(widths=(4_096, 256), momentum=0.9)

recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=BATCH, workers=16, texts=()),
    views=mixed_barlow.twins(224, 0.08, blur=(1.0, 0.1), solarize=0.2),
    # Batch norm in the encoder is over the whole batch: this recipe takes no microbatches.
    method=methods.Siamese(
        image=encoders.ResNet.resnet50(),
        projector=MLP,
        predictor=MLP,
        targets=("a", "b"),
        teacher=methods.Ema(of=("image", "projector"), momentum=schedules.Cosine(start=0.996, end=1.0)),
    ),
    objective={
        "a_to_b": objectives.Alignment("a/predicted", "b/target"),
        "b_to_a": objectives.Alignment("b/predicted", "a/target"),
    },
    optimizer=optim.Lars(weight_decay=schedules.Constant(value=1.5e-6)),
    schedule=schedules.WarmupCosine(peak=0.2 * BATCH / 256, warmup_steps=10 * PICTURES // BATCH),
    epochs=1_000,
    evals=mixed_barlow.recipe.evals,
)

recipe_100 = recipe.replace(
    {
        "method.teacher.momentum.start": 0.99,
        "optimizer.weight_decay.value": 1e-6,
        "schedule.peak": 0.45 * BATCH / 256,
    },
    epochs=100,
)

tiny = common.small(recipe, 600).replace(
    {
        "method.image": common.CONVOLUTIONS,
        "method.projector": methods.Projector(widths=(256, 64)),
        "method.predictor": methods.Projector(widths=(256, 64)),
        "method.teacher.momentum.start": 0.98,
    },
    views=mixed_barlow.SMALL,
)
