"""OBoW: online bag-of-visual-words generation for self-supervised learning (Gidaris et al. 2021, arXiv:2012.11552).

A student predicts from crops which words its average sees in the whole picture. The words are places of the average's
maps of earlier pictures. Numbers are those of the released code (valeoai/obow: config/ImageNetFull/
ResNet50_OBoW_full.yaml, main_obow.py, obow/builder_obow.py, obow/datasets.py, obow/solver.py), whose loss is this one
without the entropy of the bags. Unlike there, the teacher reads a square of 224 pixels at a random place and not the
middle one; small crops are five squares at random places of one changed picture, and not five of nine that cover it;
rates fall at every step and not at every epoch; the teacher moves after a step and not before it; running statistics
move once a step, by the mean of the kinds of crops; dense kernels begin normal; jitter has one order; crops are resized
bilinearly, from pictures that are squashed to a square of 256 pixels.

``jaxrep train obow:tiny`` takes about 2 minutes on two cores.
"""

from experiments import common
from experiments.vision import mixed_barlow
from jaxrep import Data, Recipe, encoders, evals, methods, objectives, optim, schedules, views

BATCH, EPOCH = 256, 1_281_167 // 256  # steps of an epoch of ImageNet
CROPS = ("crops", "patches")


def crops(
    picture: int, sizes: tuple[int, int], counts: tuple[int, int], scales: tuple[tuple[float, float], ...], whole: int
) -> tuple[views.View, ...]:
    """Return the teacher's picture, and the student's crops and patches.

    Args:
        picture: side of the teacher's square.
        sizes: sides of the crops and of the patches.
        counts: their numbers.
        scales: ranges of the areas of the crops, and of the part of the picture from which patches are taken.
        whole: side to which that part is resized.
    """
    changed = [
        (
            views.RandomResizedCrop(name, size=size, scale=scale),
            views.ColorJitter(name, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
            views.Grayscale(name, p=0.2),
            *((views.GaussianBlur(name, p=0.5, radius=6),) if name == "crops" else ()),
            views.RandomHorizontalFlip(name),
        )
        for name, size, scale in zip(("crops", "whole"), (sizes[0], whole), scales, strict=True)
    ]
    return (
        views.CopyField("image", out="crops", count=counts[0]),
        *changed[0],
        views.CopyField("image", out="whole"),
        *changed[1],
        views.CopyField("whole", out="patches", count=counts[1]),
        views.RandomSquareCrop("patches", size=sizes[1]),
        views.RandomSquareCrop("image", size=picture),
        views.RandomHorizontalFlip("image"),
    )


recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=BATCH, workers=16, texts=()),
    views=crops(224, (160, 96), (2, 5), ((0.08, 0.6), (0.6, 1.0)), whole=256),
    # Batch norm in the encoder is over the whole batch: this recipe takes no microbatches.
    method=methods.BagsOfWords(
        image=encoders.ResNet.resnet50(),
        blocks=(12, 15),  # the last of the third and of the fourth stage
        crops=CROPS,
        hidden=4_096,
        sharpness=15.0,
        vocabulary=methods.Vocabulary(size=8_192, momentum=0.99, distance=0.5),
        teacher=methods.Ema(of=("image",), momentum=schedules.Cosine(start=0.99, end=1.0)),
    ),
    objective={"bags": objectives.BagPrediction(("12", "15"), CROPS, scale=8.0)},
    # Decay is that of torch's optimizers: of vectors too.
    optimizer=optim.Sgd(weight_decay=schedules.Constant(value=1e-4), rules=(optim.WeightDecay(path="**", factor=1.0),)),
    schedule=schedules.WarmupCosine(peak=0.03, warmup_steps=10 * EPOCH, end=3e-5),
    epochs=200,
    evals=tuple(
        kind(train=mixed_barlow.imagenet("train"), data=mixed_barlow.imagenet("val"))
        for kind in (evals.LinearProbe, evals.Knn)
    ),
)

# The first block has 8 x 8 places. The words are those of the last four steps.
tiny = common.small(recipe, 600).replace(
    views=crops(32, (24, 16), (2, 3), ((0.3, 0.6), (0.6, 1.0)), whole=32),
    method=methods.BagsOfWords(
        image=common.CONVOLUTIONS,
        blocks=(0,),
        crops=CROPS,
        hidden=256,
        vocabulary=methods.Vocabulary(size=512, momentum=0.9),
        teacher=methods.Ema(of=("image",), momentum=schedules.Cosine(start=0.98, end=1.0)),
    ),
    objective={"bags": objectives.BagPrediction(("0",), CROPS)},
)
