"""RAD-DINO: DINOv2 trained further on chest X-rays (Pérez-García et al. 2024, arXiv:2401.10815).

DINOv2 is Oquab et al. 2023, arXiv:2304.07193. The teacher is evaluated. RAD-DINO's model card states the pictures'
size, their pixels' mean and deviation, 40 pictures on each of 64 GPUs and the start from DINOv2; the size of the
released head is that of 65,536 prototypes of width 256. All else is as in DINOv2's released code
(configs/ssl_default_config.yaml), with its balancing and separate heads; what the paper changes of it (crops, rates,
length) could not be checked. Unlike there, the gradient is clipped as a whole and not by part, crops are resized
bilinearly from pictures that are squashed to a square (so that boxes are of the whole picture), positions of local
crops are resized with antialiasing, each global crop is masked by chance and not every second one, KoLeo is over the
whole batch, and there is no stochastic depth.

``jaxrep train rad_dino:tiny`` takes about 6 minutes on two cores. Beside the tower before training, accuracy of 20
nearest neighbors on concepts rises from 0.769 ± 0.028 to 0.899 ± 0.015 after 400 steps; raw pixels reach 0.882 (five
seeds; docs/recipes.md). Linear probes do not differ.
"""

from dataclasses import replace

from experiments import common
from jaxrep import Data, Pretrained, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

BATCH, EPOCH = 40 * 64, 882_775 // (40 * 64)  # steps of an epoch of 882,775 pictures
PICTURES = data.ImageFolder(path="chest-x-rays", image_size=518, crop=data.HostResize(), labels_from_folders=False)
FINDINGS = data.ImageFolder(path="findings/train", image_size=518, classes=2)  # point this at pictures of your own


def crops(
    sizes: tuple[int, int], scales: tuple[tuple[float, float], ...], count: int, mask: views.BlockMask
) -> tuple[views.View, ...]:
    """Return two global crops with hidden patches and ``count`` local ones.

    The pictures are grey: DINOv2's changes of saturation and hue are left out.
    """
    augmented: list[views.View] = []
    for name, blur, local in (("a", 1.0, 0), ("b", 0.1, 0), ("local", 0.5, 1)):
        augmented += [
            views.CopyField("image", out=name, count=count * local),
            views.RandomResizedCrop(name, size=sizes[local], scale=scales[local]),
            views.RandomHorizontalFlip(name),
            views.ColorJitter(name, brightness=0.4, contrast=0.4, p=0.8),
            views.GaussianBlur(name, p=blur),
        ]
    return (*augmented, views.Solarize("b", p=0.2), *(replace(mask, of=name) for name in "ab"))


def objective(warmup: int) -> dict[str, objectives.Term]:
    """Return DINOv2's losses. The teacher's temperature rises in the first steps."""
    warm = schedules.Ramp(start=0.04, end=0.07, steps=warmup)
    koleo = objectives.KoLeo(weight=schedules.Constant(value=0.1))
    dino, ibot = objectives.Dino(teacher_temperature=warm), objectives.Ibot(teacher_temperature=warm)
    return {"dino": dino, "ibot": ibot, "koleo": koleo}


def last_layer(steps: int) -> tuple[optim.LearningRateSchedule, ...]:
    """Return rules that keep the prototypes fixed in the first steps."""
    names = (f"{head}/{part}" for head in ("head", "patch_head") for part in ("prototypes", "lengths"))
    frozen = schedules.Ramp(start=0.0, end=1.0, after=steps)
    return tuple(optim.LearningRateSchedule(path=name, factor=frozen) for name in names)


def outlines(part: str) -> data.LabelMaps:
    """Point this at outlines of your own, as those of lungs: maps of 0 and 1 beside the pictures."""
    return data.LabelMaps(path=f"outlines/{part}/pictures", masks=f"outlines/{part}/maps", image_size=518, classes=2)


recipe = Recipe(
    data=Data(train=PICTURES, batch_size=BATCH, texts=()),
    # Local crops have the size of DINOv2's, 98 pixels for global ones of 224.
    views=crops((518, 224), ((0.32, 1.0), (0.05, 0.32)), count=8, mask=views.BlockMask(patch=14)),
    method=methods.SelfDistillation(
        image=encoders.ViT.b16(
            stem=encoders.PatchStem(patch=14),
            layer_scale=1.0,
            norm_epsilon=1e-6,
            mask_token=True,
            any_size=True,
            pixels=encoders.PixelNorm(mean=(0.5307,) * 3, std=(0.2583,) * 3),
        ),
    ),
    objective=objective(30 * EPOCH),
    optimizer=optim.AdamW(
        weight_decay=schedules.Cosine(start=0.04, end=0.4),
        clip_norm=3.0,
        rules=(
            *(optim.WeightDecay(path=f"image/{token}", factor=1.0) for token in ("class_token", "mask_token")),
            optim.LearningRate(path="image/stem/**", factor=0.2),
            optim.LayerDecay(path="image", factor=0.9),
            *last_layer(EPOCH),
        ),
    ),
    schedule=schedules.WarmupCosine(peak=0.004 * (BATCH / 1024) ** 0.5, warmup_steps=10 * EPOCH, end=1e-6),
    examples=100 * EPOCH * BATCH,
    init={"image": Pretrained("dinov2-base")},
    evals=(
        evals.Segmentation(train=outlines("train"), data=outlines("test"), background=False),
        evals.LinearProbe(train=FINDINGS, data=replace(FINDINGS, path="findings/test")),
        evals.Knn(train=FINDINGS, data=replace(FINDINGS, path="findings/test")),
    ),
)

# Scenes of 8 x 8 patches. Pictures that are held out at random are of every group; training has their images.
SCENES = data.OpenMojiScenes(image_size=64, split="random", count=200)
HEAD = methods.PrototypeHead(prototypes=256, hidden=128, width=64)

tiny = recipe.replace(
    data=Data(train=common.emoji(), batch_size=128, texts=()),
    views=crops((32, 16), ((0.5, 1.0), (0.2, 0.5)), count=4, mask=views.BlockMask(patch=8, smallest=1)),
    method=methods.SelfDistillation(
        image=replace(common.IMAGE, pool="cls", mask_token=True, any_size=True),
        head=HEAD,
        patch_head=HEAD,
        teacher=methods.Ema(of=("image", "head", "patch_head"), momentum=schedules.Cosine(start=0.95, end=1.0)),
    ),
    objective=objective(100),
    optimizer=optim.AdamW(weight_decay=schedules.Constant(value=0.04), clip_norm=3.0, rules=last_layer(20)),
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=50),
    examples=400 * 128,
    init={},
    evals=(
        *common.probes(),
        evals.Segmentation(
            train=data.OpenMojiMasks(scenes=SCENES),
            data=data.OpenMojiMasks(scenes=replace(SCENES, part="test", count=100)),
            background=False,
            l2=10.0,
        ),
    ),
)
