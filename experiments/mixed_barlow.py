"""Mixed Barlow Twins: mixed inputs guard against overfitting (Bandara et al. 2023, arXiv:2312.02151).

Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230) with a regularizer: the features of mixed inputs correlate as mixed
features would. Numbers are those of the authors' code (wgcban/mix-bt, main_imagenet.py and README, section 3.3); the
paper's own tables could not be checked. In one line that code's ImageNet script differs from its README and its CIFAR
script, which are followed here; the half before the regularizer is the ImageNet script's alone. Unlike there, gains of
the residual branches begin at 1 and not at 0, and crops are resized bilinearly.
"""

from functools import partial

from experiments import clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.files import ImageFolder
from jaxrep.data.transforms.fraction import Fraction
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.evals.classification.knn import Knn
from jaxrep.evals.classification.linear_probe import LinearProbe
from jaxrep.methods.self_supervised.siamese import Projector, Siamese
from jaxrep.objectives.correlation import BarlowTwins, MixedTwins
from jaxrep.optim.optimizers import AdamW, Lars
from jaxrep.optim.rules import LearningRate
from jaxrep.recipe import Data, Recipe
from jaxrep.schedules import Constant, Ramp, WarmupCosine
from jaxrep.views.base import View
from jaxrep.views.blur import GaussianBlur
from jaxrep.views.color import ColorJitter, Grayscale, Solarize
from jaxrep.views.copies import Copy
from jaxrep.views.crop import RandomResizedCrop
from jaxrep.views.geometry import RandomHorizontalFlip
from jaxrep.views.mixup import MixUp

BATCH, EPOCH = 1_024, 1_281_167 // 1_024  # steps of an epoch of ImageNet


def views(size: int, smallest: float, blur: tuple[float, float], solarize: float) -> tuple[View, ...]:
    """Both views and their mixture (Zbontar et al., appendix A); they differ in blur and solarization alone."""
    both = tuple(
        view
        for name, chance in zip("ab", blur, strict=True)
        for view in (
            Copy("image", out=name),
            RandomResizedCrop(name, size=size, scale=(smallest, 1.0)),
            RandomHorizontalFlip(name),
            ColorJitter(name, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
            Grayscale(name, p=0.2),
            GaussianBlur(name, p=chance, radius=6),
        )
    )
    return (*both, Solarize("b", p=solarize), MixUp("a", other="b"))


recipe = Recipe(
    data=Data(
        train=ImageFolder(path="imagenet/train", image_size=256, classes=1_000), batch_size=BATCH, workers=16, texts=()
    ),
    views=views(224, 0.08, blur=(1.0, 0.1), solarize=0.2),
    # Batch norm in the encoder is over the whole batch: this recipe takes no microbatches.
    method=Siamese(image=ResNet.resnet50(), projector=Projector(widths=(8_192, 8_192, 8_192))),
    objective={
        "twins": BarlowTwins("a", "b", redundancy=0.0051),
        "mixed": MixedTwins("mixed", "a", "b", redundancy=0.0051, weight=Ramp(start=0.0, end=1.0, steps=10 * EPOCH)),
    },
    optimizer=Lars(
        weight_decay=Constant(value=1e-6),
        rules=tuple(
            LearningRate(path=f"**/{name}", factor=0.0048 / 0.2) for name in ("scale", "bias", "scales/*", "biases/*")
        ),
    ),
    schedule=WarmupCosine(peak=0.2 * BATCH / 256, warmup_steps=10 * EPOCH, end=0.2 * BATCH / 256 * 0.001),
    epochs=300,
    evals=tuple(
        kind(
            train=ImageFolder(path="imagenet/train", image_size=224, classes=1_000),
            data=ImageFolder(path="imagenet/val", image_size=224, classes=1_000),
        )
        for kind in (LinearProbe, Knn)
    ),
)


# The encoder of clip.tiny, which has no batch norm; the weights of the terms are those of CIFAR-10, whose script has 4
# where the term here has half of 8.
def half(rest: bool) -> Fraction:
    """Half of the concepts of all pictures, or the other half."""
    return Fraction(source=OpenMoji(image_size=48, part="all"), share=0.5, by="concept", rest=rest)


# The group is asked of pictures of new concepts: among variants of one drawing raw pixels find it.
HELD_OUT = {
    "group": (half(False), half(True)),
    "concept": (OpenMoji(image_size=48), OpenMoji(image_size=48, part="test")),
}

tiny = recipe.replace(
    data=Data(train=OpenMoji(image_size=48), batch_size=256, texts=()),
    views=views(48, 0.3, blur=(0.5, 0.1), solarize=0.0),
    method=Siamese(
        image=clip.TINY_IMAGE,
        projector=Projector(widths=(256, 256)),
    ),
    objective={
        "twins": BarlowTwins("a", "b", redundancy=0.0078125),
        "mixed": MixedTwins("mixed", "a", "b", redundancy=0.0078125, weight=Constant(value=8.0)),
    },
    optimizer=AdamW(weight_decay=Constant(value=0.05), clip_norm=1.0),
    schedule=WarmupCosine(peak=1e-3, warmup_steps=50),
    examples=500 * 256,
    evals=tuple(
        kind(train=train, data=data, label=label, name=name + label)
        for label, (train, data) in HELD_OUT.items()
        for name, kind in (("probe/", partial(LinearProbe, max_iterations=20)), ("knn/", Knn))
    ),
)
