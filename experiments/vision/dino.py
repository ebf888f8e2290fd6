"""DINO: emerging properties in self-supervised vision transformers (Caron et al. 2021, arXiv:2104.14294).

A student's crops follow those of its average, whose logits are centered and sharpened. Numbers are those of the
released code for ViT-S/16 and 100 epochs on 8 GPUs (facebookresearch/dino: main_dino.py, vision_transformer.py,
utils.py, README.md, "Vanilla DINO training"). For 300 epochs it has a teacher's temperature of 0.07 after 30 epochs,
and learned lengths. ``v2`` is DINOv2 (Oquab et al. 2023, arXiv:2304.07193) by its public configuration for ImageNet
(facebookresearch/dinov2: configs/ssl_default_config.yaml, configs/train/vitl16_short.yaml, README.md for 32 GPUs): one
head for class tokens and patches, with a center each. Unlike there, stochastic depth rises to its rate from block to
block, each global crop is masked by chance and not every second one, and KoLeo is over the whole batch.

Unlike both, the gradient is clipped as a whole and not by part, fixed prototypes have moments meanwhile, and crops are
resized bilinearly, from pictures that are squashed to a square of 256 pixels.

``jaxrep train dino:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import swav
from jaxrep import Data, Recipe, encoders, methods, objectives, optim, schedules, views

BATCH, EPOCH = 8 * 64, 1_281_167 // (8 * 64)  # steps of an epoch of ImageNet
BATCH_V2, EPOCH_V2 = 32 * 64, 1_250
JITTER = views.ColorJitter("image", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8)
DECAY, WARM = schedules.Cosine(start=0.04, end=0.4), schedules.Ramp(start=0.04, end=0.07, steps=30 * EPOCH_V2)


def crops(
    smallest: float, largest: float, *, sizes: tuple[int, int] = (224, 96), count: int = 8
) -> tuple[views.View, ...]:
    """Return two global crops of areas above a share of the picture, and ``count`` local ones of areas below one."""
    augmented = swav.crops(sizes, ((largest, 1.0), (smallest, largest)), count, JITTER, blur=(1.0, 0.1, 0.5))
    return (*augmented, views.Solarize("b", p=0.2))


def average(start: float) -> methods.Ema:
    """Return the teacher, whose momentum rises to 1."""
    return methods.Ema(of=("image", "head"), momentum=schedules.Cosine(start=start, end=1.0))


CLASS_TOKEN = optim.WeightDecay(path="image/class_token", factor=1.0)

recipe = Recipe(
    data=Data(train=swav.recipe.data.train, batch_size=BATCH, workers=16, texts=()),
    views=crops(0.05, 0.4),
    method=methods.SelfDistillation(
        image=encoders.ViT.s16(
            norm_epsilon=1e-6, stochastic_depth=0.1, any_size=True, pixels=encoders.PixelNorm.imagenet()
        ),
        patch_head=None,
        teacher=average(0.996),
        hide=False,
        center=methods.TeacherCenter(momentum=0.9),
    ),
    objective={
        "dino": objectives.Dino(center="center", iterations=0, teacher_temperature=schedules.Constant(value=0.04))
    },
    optimizer=optim.AdamW(
        weight_decay=DECAY,
        clip_norm=3.0,
        rules=(CLASS_TOKEN, optim.Freeze(path="head/lengths"), *swav.fixed(EPOCH, "prototypes")),
    ),
    schedule=schedules.WarmupCosine(peak=0.0005 * BATCH / 256, warmup_steps=10 * EPOCH, end=1e-6),
    epochs=100,
    evals=swav.recipe.evals,
)

v2 = recipe.replace(
    data=replace(recipe.data, batch_size=BATCH_V2),
    views=(
        *crops(0.05, 0.32),
        *(views.BlockMask(crop, patch=16) for crop in "ab"),
    ),
    method=methods.SelfDistillation(
        image=encoders.ViT.l14(
            stem=encoders.PatchStem(patch=16),
            layer_scale=1e-5,
            norm_epsilon=1e-6,
            stochastic_depth=0.3,
            mask_token=True,
            any_size=True,
            pixels=encoders.PixelNorm.imagenet(),
        ),
        patch_head=None,
        teacher=average(0.992),
        center=methods.TeacherCenter(),
        patch_center=methods.TeacherCenter(of="teacher/patches"),
    ),
    objective={
        "dino": objectives.Dino(center="center", iterations=0, teacher_temperature=WARM),
        "ibot": objectives.Ibot(center="patch_center", iterations=0, table="prototypes", teacher_temperature=WARM),
        "koleo": objectives.KoLeo(weight=schedules.Constant(value=0.1)),
    },
    optimizer=optim.AdamW(
        weight_decay=DECAY,
        clip_norm=3.0,
        rules=(
            CLASS_TOKEN,
            optim.WeightDecay(path="image/mask_token", factor=1.0),
            optim.LearningRate(path="image/stem/**", factor=0.2),
            optim.LayerDecay(path="image", factor=0.9),
            *swav.fixed(EPOCH_V2, "prototypes", "lengths"),
        ),
    ),
    schedule=schedules.WarmupCosine(peak=0.004 * (BATCH_V2 / 1024) ** 0.5, warmup_steps=10 * EPOCH_V2, end=1e-6),
    epochs=0.0,
    examples=100 * EPOCH_V2 * BATCH_V2,
)

# Rows of this network are nearly alike at first. The head of SwAV, with batch norm, tells them apart.
tiny = common.small(recipe, 600, rules=(optim.Freeze(path="head/lengths"), *swav.fixed(20, "prototypes"))).replace(
    views=swav.tiny.views,
    method=replace(
        recipe.method,
        image=common.CONVOLUTIONS,
        head=replace(swav.HEAD, prototypes=256, hidden=256, width=64, lengths="learned"),
        teacher=average(0.95),
    ),
)
