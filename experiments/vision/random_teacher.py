"""Random Teachers are Good Teachers (Sarnthein et al. 2023, arXiv:2302.12091).

A student follows a teacher that never learns, on pictures without augmentation; the features of both are evaluated.
Presets differ in alpha: at 1 the student starts far from the teacher, ``half`` has 0.5, ``near`` 0.1. Numbers are those
of the released code (safelix/dinopl: configs/cifar10_distillation_v2.json, configuration.py, dinopl/core.py,
models/resnet.py, datasets/cifar.py), and alphas those of its notebooks/results_icml.ipynb; the paper's own figures
could not be checked. The configuration has alpha 0, where student and teacher differ in their batch norms alone: the
teacher reads as at inference.

Unlike there, what starts as a constant stays (the code divides gains of norms as well), and prototypes have unit
length: the code computes such weights, and its layer reads the others (dinopl/modules/linear.py).

``jaxrep train random_teacher:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from jaxrep import Data, Recipe, data, encoders, evals, methods, objectives, optim, schedules


def cifar(part: str) -> data.ImageFolder:
    """Return the pictures of CIFAR-10, in a folder per class."""
    return data.ImageFolder(path=f"cifar10/{part}", image_size=32, crop=data.HostResize(), classes=10)


def probes(*sources: evals.Eval) -> tuple[evals.Eval, ...]:
    """Return evaluations of the student's features, and the same of the teacher's."""
    teachers = tuple(replace(each, output="teacher/image", name=f"teacher/{each.name}") for each in sources)
    return (*sources, *teachers)


def method(alpha: float, image: encoders.Encoder, head: methods.PrototypeHead) -> methods.SelfDistillation:
    """Return a student that reads the picture that its teacher reads."""
    return methods.SelfDistillation(
        image=image,
        head=head,
        patch_head=None,
        teacher=methods.RandomTeacher(of=("image", "head"), alpha=alpha),
        crops=("image",),
        hide=False,
        features="student",
    )


NET = encoders.ResNet.resnet18(
    stem="small", pixels=encoders.PixelNorm(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261))
)

recipe = Recipe(
    data=Data(train=cifar("train"), batch_size=256, texts=()),
    # Batch norm in the encoder: this recipe takes no microbatches.
    method=method(1.0, NET, methods.PrototypeHead(prototypes=65_536, hidden=2_048, width=256)),
    objective={
        "same": objectives.Dino(
            local="",
            pairs="same",
            iterations=0,
            student_temperature=1.0,
            teacher_temperature=schedules.Constant(value=1.0),
        )
    },
    optimizer=optim.AdamW(rules=(optim.Freeze(path="head/lengths"),)),
    schedule=schedules.Constant(value=1e-3),
    epochs=100,
    evals=probes(
        evals.LinearProbe(train=cifar("train"), data=cifar("test")), evals.Knn(train=cifar("train"), data=cifar("test"))
    ),
)
half = recipe.replace({"method.teacher.alpha": 0.5})
near = recipe.replace({"method.teacher.alpha": 0.1})

tiny = recipe.replace(
    data=Data(train=common.emoji(), batch_size=128, texts=()),
    method=method(1.0, common.CONVOLUTIONS, methods.PrototypeHead(prototypes=1_024, hidden=128, width=64)),
    examples=600 * 128,
    evals=probes(*common.probes()),
)
