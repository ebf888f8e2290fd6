"""SwAV: learning of visual features by contrasting cluster assignments (Caron et al. 2020, arXiv:2006.09882).

The assignment of a global crop to prototypes, balanced over the batch, is what every other crop predicts. Numbers are
those of the released code (facebookresearch/swav: scripts/swav_800ep_pretrain.sh, main_swav.py,
src/multicropdataset.py, src/resnet50.py); the paper's own tables could not be checked. The optional queue of small
batches is not here. Unlike there, the head's batch norm is over the whole batch, and not over groups of eight GPUs as
the encoder's; gains of the residual branches begin at 1; crops are resized bilinearly, from pictures that are squashed
to a square of 256 pixels; kernels of the head begin normal; while prototypes are fixed, their momentum builds up; and
the weight decay is part of the gradient whose norm LARS takes.

``jaxrep train swav:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import mixed_barlow
from jaxrep import Data, Recipe, encoders, evals, methods, objectives, optim, schedules, views

BATCH, EPOCH = 64 * 64, 1_281_167 // (64 * 64)  # steps of an epoch of ImageNet, of 64 pictures on each of 64 GPUs
JITTER = views.ColorJitter("image", brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8)


def crops(
    sizes: tuple[int, int],
    scales: tuple[tuple[float, float], ...],
    count: int,
    jitter: views.ColorJitter = JITTER,
    blur: tuple[float, float, float] = (0.5, 0.5, 0.5),
) -> tuple[views.View, ...]:
    """Return two global crops and ``count`` local ones; sizes and areas are those of global and of local crops."""
    return tuple(
        view
        for name, local, chance in zip(("a", "b", "local"), (0, 0, 1), blur, strict=True)
        for view in (
            views.CopyField("image", out=name, count=count * local),
            views.RandomResizedCrop(name, size=sizes[local], scale=scales[local]),
            views.RandomHorizontalFlip(name),
            replace(jitter, of=name),
            views.Grayscale(name, p=0.2),
            views.GaussianBlur(name, p=chance, radius=6),
        )
    )


def fixed(steps: int, *names: str) -> tuple[optim.LearningRateSchedule, ...]:
    """Return rules that keep arrays of the head as they are in the first steps."""
    thaw = schedules.Ramp(start=0.0, end=1.0, after=steps)
    return tuple(optim.LearningRateSchedule(path=f"head/{name}", factor=thaw) for name in names)


HEAD = methods.PrototypeHead(
    prototypes=3_000, hidden=2_048, width=128, layers=2, norm="batch", activation="relu", lengths="unit"
)

recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=BATCH, workers=16, texts=()),
    views=crops((224, 96), ((0.14, 1.0), (0.05, 0.14)), count=6),
    # Batch norm in the encoder: this recipe takes no microbatches.
    method=methods.SelfDistillation(
        image=encoders.ResNet.resnet50(
            norm=encoders.BatchNorm(groups=64 // 8),
            pixels=encoders.PixelNorm(mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225)),
        ),
        head=HEAD,
        patch_head=None,
        teacher=None,
        hide=False,
    ),
    objective={"swav": objectives.Dino(teacher_temperature=schedules.Constant(value=0.05), each_crop=True)},
    optimizer=optim.Lars(
        weight_decay=schedules.Constant(value=1e-6),
        vectors=True,
        rules=(optim.WeightDecay(path="**", factor=1.0), *fixed(313, "prototypes")),
    ),
    schedule=schedules.WarmupCosine(start=0.3, peak=4.8, warmup_steps=10 * EPOCH, end=0.0048),
    epochs=800,
    evals=tuple(
        kind(train=mixed_barlow.imagenet("train"), data=mixed_barlow.imagenet("val"))
        for kind in (evals.LinearProbe, evals.Knn)
    ),
)

# The lower temperature is what the released README advises where the loss stays at the logarithm of the number of
# prototypes.
tiny = common.small(recipe, 600, rules=fixed(20, "prototypes")).replace(
    {"objective.swav.teacher_temperature.value": 0.03},
    views=crops(
        (32, 16),
        ((0.4, 1.0), (0.15, 0.4)),
        count=4,
        jitter=replace(JITTER, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
        blur=(0.0, 0.0, 0.0),
    ),
    method=replace(recipe.method, image=common.CONVOLUTIONS, head=replace(HEAD, prototypes=64, hidden=256, width=64)),
)
