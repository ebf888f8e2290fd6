"""SimCLR: a simple framework for contrastive learning of visual representations (Chen et al. 2020, arXiv:2002.05709).

Each of the 2B projections is told from all others by its partner. Numbers are those of the released command
(google-research/simclr, README.md, run.py, model_util.py, data_util.py): rate 0.075 x sqrt(B), decay 1e-4 and a head of
3 layers. An earlier command had 0.3 x B / 256, the same rate at 4,096, and decay 1e-6; the paper has a head of 2 layers
(neither could be read). That code adds both views' losses, which is twice the mean here. Presets: ``dcl`` leaves the
positive out of the denominator (Yeh et al. 2022, arXiv:2110.06848); ``directclr`` has no trained head, and the other
side alone as candidates (facebookresearch/directclr, main.py and utils.py); ``supcon`` is Supervised Contrastive
Learning (Khosla et al. 2020, arXiv:2004.11362) on CIFAR-10 (HobbitLong/SupContrast: README.md, main_supcon.py,
networks/resnet_big.py, losses.py, whose factor T / 0.07 is the weight). Unlike there, the head's last norm has a bias
too, brightness of ``recipe`` is jittered with the rest in one order, blurs end 6 pixels from a pixel and not 11, gains
of residual branches begin at 1, running statistics move once a step, rates fall at every step, crops are resized
bilinearly, ImageNet's from pictures that are squashed to a square of 256 pixels.

``jaxrep train simclr:tiny`` takes about 2 minutes on two cores.
"""

from typing import Any

from experiments import common
from experiments.vision import mixed_barlow, random_teacher
from jaxrep import Data, Recipe, encoders, evals, methods, objectives, optim, schedules, views

BATCH, EPOCH = 4_096, 1_281_167 // 4_096  # steps of an epoch of ImageNet
CIFAR_EPOCH = 50_000 // 1_024
STRONG = views.ColorJitter("image", brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8)
WEAK = views.ColorJitter("image", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8)


def method(image: encoders.Encoder, projector: methods.Head, temperature: float) -> methods.Siamese:
    """Return the method with a fixed temperature."""
    scale = methods.LogitScale(init=1 / temperature, trainable=False)
    return methods.Siamese(image=image, projector=projector, scale=scale)


def contrast(**options: Any) -> dict[str, objectives.Term]:
    """Return the loss over all 2B rows."""
    return {"contrast": objectives.Contrastive("a", "b", same_side=True, **options)}


def supervised(label: str, temperature: float = 0.1) -> dict[str, objectives.Term]:
    """Return the loss with all rows of a label as positives."""
    weight = schedules.Constant(value=temperature / 0.07)
    return contrast(duplicates="supcon", ids=(label,), weight=weight)


recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=BATCH, workers=16, texts=()),
    views=mixed_barlow.twins(224, 0.08, blur=(0.5, 0.5), solarize=0.0, jitter=STRONG),
    # Batch norm in the encoder is over the whole batch: this recipe takes no microbatches.
    method=method(
        encoders.ResNet.resnet50(),
        methods.Projector(widths=(2_048, 2_048, 128), last_norm=True, momentum=0.9),
        temperature=0.1,
    ),
    objective=contrast(),
    optimizer=optim.Lars(weight_decay=schedules.Constant(value=1e-4)),
    schedule=schedules.WarmupCosine(peak=0.075 * BATCH**0.5, warmup_steps=10 * EPOCH),
    epochs=100,
    evals=tuple(
        kind(train=mixed_barlow.imagenet("train"), data=mixed_barlow.imagenet("val"))
        for kind in (evals.LinearProbe, evals.Knn)
    ),
)

dcl = recipe.replace(objective=contrast(decoupled=True))

directclr = recipe.replace(
    {"optimizer.weight_decay.value": 1e-6, "schedule.end": 4.8 * 0.001},
    views=mixed_barlow.twins(224, 0.08, blur=(1.0, 0.1), solarize=0.2),
    method=method(encoders.ResNet.resnet50(), methods.FirstFeatures(features=360), temperature=0.1),
    objective={"contrast": objectives.Contrastive("a", "b")},
)

NET = encoders.ResNet.resnet50(
    stem="small", pixels=encoders.PixelNorm(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
)

MLP = methods.Projector(widths=(2_048, 128), norm="none", bias=True)

supcon = recipe.replace(
    data=Data(train=random_teacher.cifar("train"), batch_size=1_024, texts=()),
    views=mixed_barlow.twins(32, 0.2, blur=(0.0, 0.0), solarize=0.0, jitter=WEAK),
    method=method(NET, MLP, temperature=0.1),
    objective=supervised("label"),
    # Decay is that of torch's SGD: of vectors too.
    optimizer=optim.Sgd(weight_decay=schedules.Constant(value=1e-4), rules=(optim.WeightDecay(path="**", factor=1.0),)),
    schedule=schedules.WarmupCosine(peak=0.5, warmup_steps=10 * CIFAR_EPOCH, start=0.01, end=0.5 * 0.1**3),
    epochs=1_000,
    evals=tuple(
        kind(train=random_teacher.cifar("train"), data=random_teacher.cifar("test"))
        for kind in (evals.LinearProbe, evals.Knn)
    ),
)

tiny = common.small(recipe, 600).replace(
    views=mixed_barlow.SMALL,
    method=method(common.CONVOLUTIONS, methods.Projector(widths=(256, 64)), temperature=0.2),
)

# Groups are labels of half of the concepts, and are measured on the other half.
tiny_supcon = tiny.replace({"data.train": common.half(False), "method.scale.init": 10.0}, objective=supervised("group"))
