"""PixPro: propagate yourself (Xie et al. 2021, arXiv:2011.10043).

Places of a feature map, each the sum of similar places, agree with the places of the other view's teacher that lie near
them in the picture. Numbers are those of the released code for 100 epochs (zdaxie/PixPro:
tools/pixpro_base_r50_100ep.sh, contrast/option.py, contrast/models/PixPro.py, contrast/data/transform.py,
contrast/lars.py, contrast/lr_scheduler.py); 400 epochs change nothing else. ``contrast`` is the paper's contrastive
form, which that code has not: its equation was read in two public notes on the paper, and its temperature in
lucidrains/pixel-level-contrastive-learning; all else is as in PixPro, which could not be checked. Unlike in the
released code, boxes are shares of the picture's width and not of its last pixel's place; the teacher moves after a
step and not before it; running statistics move once a step, by the mean of the views; gains of the residual branches
begin at 1, and kernels of heads normal; jitter has one order; crops are resized bilinearly, from pictures that are
squashed to a square of 256 pixels.

``jaxrep train pixpro:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import byol, mixed_barlow
from jaxrep import Data, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

BATCH, EPOCH = 1_024, 1_281_167 // 1_024  # steps of an epoch of ImageNet


def telling(augmented: tuple[views.View, ...]) -> tuple[views.View, ...]:
    """Return the views with crops that tell their boxes."""
    return tuple(
        replace(view, tell_box=True) if isinstance(view, views.RandomResizedCrop) else view for view in augmented
    )


def both(term: type[objectives.PlaceTerm], output: str) -> dict[str, objectives.Term]:
    """Return a term of near places in both directions; ``output``: what follows the name of a view."""
    return {f"{x}_to_{y}": term(f"{x}{output}", f"{y}/target", (f"{x}/box", f"{y}/box")) for x, y in ("ab", "ba")}


recipe = Recipe(
    data=replace(byol.recipe.data, batch_size=BATCH),
    views=telling(byol.recipe.views),
    # Batch norm in the encoder is over the whole batch: this recipe takes no microbatches.
    method=methods.Siamese(
        image=encoders.ResNet.resnet50(),
        projector=methods.Projector(widths=(4_096, 256), bias=True),
        predictor=methods.Propagation(power=2.0),
        targets=("a", "b"),
        teacher=methods.Ema(of=("image", "projector"), momentum=schedules.Cosine(start=0.99, end=1.0)),
        places=True,
    ),
    objective=both(objectives.PlaceAgreement, "/predicted"),
    optimizer=optim.Lars(weight_decay=schedules.Constant(value=1e-5)),
    schedule=schedules.WarmupCosine(
        peak=1.0 * BATCH / 256, start=1.0 * BATCH / 256 / 100, warmup_steps=5 * EPOCH, end=1e-6
    ),
    epochs=100,
    evals=byol.recipe.evals,
)

contrast = recipe.replace({"method.predictor": None}, objective=both(objectives.PlaceContrast, ""))

# Scenes of a few emojis, in maps of 6 x 6 places. Pictures that are held out at random are of every group.
SCENES = data.OpenMojiScenes(count=20_000)
HELD_OUT = replace(SCENES, split="random", count=200)

tiny = common.small(recipe, 150).replace(
    {
        "method.image": common.CONVOLUTIONS,
        "method.projector.widths": (128, 64),
        "method.teacher.momentum.start": 0.98,
    },
    data=Data(train=SCENES, batch_size=64, texts=()),
    views=telling(mixed_barlow.twins(96, 0.3, blur=(0.5, 0.1), solarize=0.0)),
    examples=150 * 64,
    evals=(
        evals.Segmentation(
            train=data.OpenMojiMasks(scenes=HELD_OUT),
            data=data.OpenMojiMasks(scenes=replace(HELD_OUT, part="test", count=100)),
            background=False,
            l2=10.0,
        ),
    ),
)
