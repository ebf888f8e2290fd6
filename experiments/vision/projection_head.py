"""Investigating the benefits of the projection head for representation learning (Xue et al. 2024, arXiv:2403.11391).

SimCLR, supervised contrast and labels, each with a head, without one, and with a fixed head that multiplies feature i
by kappa ** -i. Features before and after the head are measured alike. The fixed head and kappa are those of the code of
an author (jiayini1119/projection-head-experiments: models/spuco_model.py, train_ph.py). The paper's other numbers could
not be read: these are of a repository that has all three losses on CIFAR-10 (HobbitLong/SupContrast: README.md,
main_supcon.py, main_ce.py), where labels have no head; its differences are those of simclr.py's ``supcon``.

``jaxrep train projection_head:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import random_teacher, simclr
from jaxrep import Recipe, encoders, evals, methods, objectives, schedules, views

KAPPA = 1.05
NONE, FIXED = methods.Identity(), methods.ScaleFeatures(kappa=KAPPA)


def before_and_after(*measured: evals.Eval) -> tuple[evals.Eval, ...]:
    """Return evaluations of the features before the head, and the same after it."""
    labeled = [each for each in measured if isinstance(each, evals.LabeledEval)]
    return (*measured, *(replace(x, output="image/projected", name=f"projected/{x.name}") for x in labeled))


def with_head(start: Recipe, head: methods.Head) -> Recipe:
    """Return a recipe with another head."""
    return start.replace({"method.projector": head})


def classifier(encoder: encoders.Encoder, classes: int, head: methods.Head) -> methods.Classifier:
    """Return a classifier with a head before the table of classes."""
    return methods.Classifier(encoder=encoder, classes=classes, projector=head)


def classify(label: str) -> dict[str, objectives.Term]:
    """Return the cross-entropy of the features after the head."""
    return {"classes": objectives.CrossEntropy("image/projected", label=label)}


MEASURED = before_and_after(
    *(
        kind(train=random_teacher.cifar("train"), data=random_teacher.cifar("test"))
        for kind in (evals.LinearProbe, evals.Knn)
    )
)

# SimCLR there has a temperature of 0.5; its weight is that of the code.
recipe = simclr.supcon.replace(
    {"method.scale.init": 2.0},
    objective=simclr.contrast(weight=schedules.Constant(value=0.5 / 0.07)),
    evals=MEASURED,
)
none = with_head(recipe, NONE)
fixed = with_head(recipe, FIXED)

supcon = simclr.supcon.replace(evals=MEASURED)
supcon_none = with_head(supcon, NONE)
supcon_fixed = with_head(supcon, FIXED)

labels = recipe.replace(
    {"schedule.peak": 0.8, "schedule.end": 0.8 * 0.1**3},
    views=(views.RandomResizedCrop("image", size=32, scale=(0.2, 1.0)), views.RandomHorizontalFlip("image")),
    method=classifier(simclr.NET, 10, simclr.MLP),
    objective=classify("label"),
    epochs=500,
)
labels_none = with_head(labels, NONE)
labels_fixed = with_head(labels, FIXED)

# Groups are labels of half of the concepts, and are measured on the other half. Other heads and supervised contrast are
# changes of these recipes (results/siamese.py).
HEAD = methods.Projector(widths=(256, 96), norm="none", bias=True)
tiny = simclr.tiny.replace(
    {"data.train": common.half(False), "method.projector": HEAD}, evals=before_and_after(*common.probes("group"))
)
tiny_labels = tiny.replace(
    views=(views.RandomResizedCrop("image", size=32, scale=(0.3, 1.0)), views.RandomHorizontalFlip("image")),
    method=classifier(common.CONVOLUTIONS, 10, HEAD),
    objective=classify("group"),
)
