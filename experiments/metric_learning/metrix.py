"""Metrix: It Takes Two to Tango: Mixup for Deep Metric Learning (Venkataramanan et al. 2022, arXiv:2106.04990).

The label of a mixture says how far it belongs to a class. ``recipe`` mixes embeddings under the multi-similarity loss;
``feature`` and ``input`` mix earlier; ``contrastive`` and ``proxy_anchor`` have other losses.

``jaxrep train metrix:tiny`` takes about 2 minutes on two cores. Beside the multi-similarity loss alone for 600 steps,
R@1 of concepts falls from 0.918 ± 0.014 to 0.898 ± 0.008 (the claim is reversed), and the accuracy of a linear probe on
concepts rises from 0.912 ± 0.013 to 0.936 ± 0.007 (five seeds; docs/recipes.md).
"""

from typing import Literal

from experiments import common
from jaxrep import Data, Pretrained, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

CLASSES, WEIGHT = 100, schedules.Constant(value=0.4)  # section 4.1: w = 0.4, Beta(2, 2)
EPOCH = 5_864 // 100  # steps of an epoch of CUB's first 100 classes
AFTER_FIVE_EPOCHS = schedules.Ramp(start=0.0, end=1.0, after=5 * EPOCH)


def terms(kind: Literal["contrastive", "multi_similarity", "proxy_anchor"], label: str = "label") -> dict:
    """Return the clean loss and the mixed one (equation 10)."""
    proxies = "proxies" if kind == "proxy_anchor" else ""
    return {
        "clean": objectives.MetricLearning("image", kind=kind, label=label, proxies=proxies),
        "mixed": objectives.MixedMetricLearning("image", kind=kind, label=label, proxies=proxies, weight=WEIGHT),
    }


# Rate, decay, length, crops, weight of the mixed loss and five epochs of the embedding alone were read in the authors'
# released code (billpsomas/Metrix_ICLR22: main.py, train.py, dataset/utils.py), which has the contrastive loss only.
# The three constants of multi-similarity could not be checked. Embeddings of 512 dimensions are the paper's, 128 by
# default there. A batch of CUB there is 20 random pictures; five per class are its sampler of SOP and In-Shop, and 100
# pictures are this file's. There batch norm keeps ImageNet's statistics, features are pooled by mean and maximum and
# mixed before, gradients are clipped value by value, and an anchor is compared with mixtures of its own, of all
# positives or itself with hard negatives. Here each row is mixed with one other, and an anchor is compared with all
# mixtures that contain its class.
recipe = Recipe(
    data=Data(
        # The first 100 of CUB's 200 classes.
        train=data.ImageFolder(
            path="cub200/train", crop=data.HostRandomResizedCrop(scale=(0.08, 1.0)), classes=CLASSES
        ),
        batch_size=100,
        texts=(),
        order=data.Grouped(by="label", per_group=5),
    ),
    views=(views.RandomHorizontalFlip("image"),),
    method=methods.MixupEncoder(
        image=encoders.ResNet.resnet50(), head=methods.Linear(features=512, bias=True), level="embedding"
    ),
    objective=terms("multi_similarity"),
    optimizer=optim.Adam(
        weight_decay=schedules.Constant(value=1e-4),
        rules=(
            optim.WeightDecay(path="**", factor=1.0),
            optim.LearningRateSchedule(path="image/**", factor=AFTER_FIVE_EPOCHS),
        ),
    ),
    schedule=schedules.Staircase(start=1e-4, every=10 * EPOCH),
    epochs=60,
    init={"image": Pretrained("resnet50")},  # of ImageNet, in timm's layout
    evals=(
        evals.SameClass(
            data=data.ImageFolder(path="cub200/test", crop=data.HostCenterCrop(side=224 / 256), classes=CLASSES)
        ),
    ),
)

feature = recipe.replace({"method.level": "feature"})
input = recipe.replace({"method.level": "input"}, views=(*recipe.views, views.MixUp("image")))
contrastive = recipe.replace(objective=terms("contrastive"))
proxy_anchor = recipe.replace(
    {
        "method.proxies": CLASSES,
        "optimizer.rules": (*recipe.optimizer.rules, optim.LearningRate(path="proxy_table/**", factor=100.0)),
    },
    objective=terms("proxy_anchor"),
)

tiny = recipe.replace(
    optimizer=optim.AdamW(weight_decay=schedules.Constant(value=0.1), clip_norm=1.0),
    data=Data(train=common.emoji(), batch_size=128, texts=(), order=data.Grouped(by="concept", per_group=4)),
    views=(common.SHIFT,),
    method=methods.MixupEncoder(image=common.IMAGE, head=methods.Linear(features=64, bias=True), level="embedding"),
    objective=terms("multi_similarity", "concept"),
    schedule=schedules.WarmupConstant(peak=1e-3, warmup_steps=50),
    examples=600 * 128,
    init={},
    evals=(
        evals.SameClass(data=common.emoji("test"), label="concept"),
        evals.Utilization(train=common.emoji(), data=common.emoji("test"), label="concept"),
    ),
)
