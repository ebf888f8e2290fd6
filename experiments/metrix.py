"""Metrix: mixup for metric learning, with labels that say how far a mixture is of a class (Venkataramanan et al. 2022,
arXiv:2106.04990).

``recipe`` mixes embeddings under the multi-similarity loss; ``feature`` and ``input`` mix earlier; ``contrastive`` and
``proxy_anchor`` have other losses.
"""

from typing import Literal

from experiments import clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.orders.groups import Grouped
from jaxrep.data.sources.files import ImageFolder
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.evals.retrieval.same_class import SameClass, Utilization
from jaxrep.methods.heads import Linear
from jaxrep.methods.mixing import MixupEncoder
from jaxrep.objectives.metric_learning import MetricLearning, MixedMetricLearning
from jaxrep.optim.optimizers import Adam, AdamW
from jaxrep.optim.rules import LearningRate, LearningRateSchedule, WeightDecay
from jaxrep.recipe import Data, Pretrained, Recipe
from jaxrep.schedules import Constant, Ramp, Stairs, WarmupConstant
from jaxrep.views.crop import RandomResizedCrop
from jaxrep.views.geometry import RandomHorizontalFlip, RandomTranslate
from jaxrep.views.mixup import MixUpWithin

CLASSES, WEIGHT = 100, Constant(value=0.4)  # section 4.1: w = 0.4, Beta(2, 2)
EPOCH = 5_864 // 100  # steps of an epoch of CUB's first 100 classes
EVERYTHING, AFTER_FIVE_EPOCHS = WeightDecay(path="**", factor=1.0), Ramp(start=0.0, end=1.0, after=5 * EPOCH)


def terms(kind: Literal["contrastive", "multi_similarity", "proxy_anchor"], label: str = "label") -> dict:
    """The clean loss and the mixed one (equation 10)."""
    proxies = "proxies" if kind == "proxy_anchor" else ""
    return {
        "clean": MetricLearning("image", kind=kind, label=label, proxies=proxies),
        "mixed": MixedMetricLearning("image", kind=kind, label=label, proxies=proxies, weight=WEIGHT),
    }


# Embeddings of 512 dimensions and the weight of the mixed loss are the paper's; rate, decay, length, five examples of a
# class and five epochs of the embedding alone are those of the authors' released code (billpsomas/Metrix_ICLR22), and
# the batch, 20 there, could not be checked. There batch norm keeps ImageNet's statistics, features are pooled by mean
# and maximum and mixed before, gradients are clipped value by value, and mixtures are of all positives with hard
# negatives of each anchor; here each row is mixed with one other, and of an anchor those count that are part of its
# class.
recipe = Recipe(
    data=Data(
        train=ImageFolder(path="cub200/train", image_size=256, classes=CLASSES),  # the first 100 of its 200 classes
        batch_size=100,
        texts=(),
        order=Grouped(by="label", per_group=5),
    ),
    views=(RandomResizedCrop("image", size=224), RandomHorizontalFlip("image")),
    method=MixupEncoder(image=ResNet.resnet50(), head=Linear(features=512, bias=True), level="embedding"),
    objective=terms("multi_similarity"),
    optimizer=Adam(
        weight_decay=Constant(value=1e-4),
        rules=(EVERYTHING, LearningRateSchedule(path="image/**", factor=AFTER_FIVE_EPOCHS)),
    ),
    schedule=Stairs(start=1e-4, every=10 * EPOCH),
    epochs=60,
    init={"image": Pretrained("resnet50")},  # of ImageNet, in timm's layout
    evals=(SameClass(data=ImageFolder(path="cub200/test", image_size=224, classes=CLASSES)),),
)

feature = recipe.replace({"method.level": "feature"})
input = recipe.replace({"method.level": "input"}, views=(*recipe.views, MixUpWithin("image")))
contrastive = recipe.replace(objective=terms("contrastive"))
proxy_anchor = recipe.replace(
    {
        "method.proxies": CLASSES,
        "optimizer.rules": (*recipe.optimizer.rules, LearningRate(path="proxy_table/**", factor=100.0)),
    },
    objective=terms("proxy_anchor"),
)

TRAIN, TEST = OpenMoji(image_size=48), OpenMoji(image_size=48, part="test")

tiny = recipe.replace(
    optimizer=AdamW(weight_decay=Constant(value=0.1), clip_norm=1.0),
    data=Data(train=TRAIN, batch_size=128, texts=(), order=Grouped(by="concept", per_group=4)),
    views=(RandomTranslate("image", pixels=3),),
    method=MixupEncoder(
        image=clip.TINY_IMAGE,
        head=Linear(features=64, bias=True),
        level="embedding",
    ),
    objective=terms("multi_similarity", "concept"),
    schedule=WarmupConstant(peak=1e-3, warmup_steps=50),
    examples=600 * 128,
    init={},
    evals=(SameClass(data=TEST, label="concept"), Utilization(train=TRAIN, data=TEST, label="concept")),
)
