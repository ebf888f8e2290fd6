"""RAD-DINO: DINOv2 goes on with chest X-rays (Pérez-García et al. 2024, arXiv:2401.10815; Oquab et al. 2023,
arXiv:2304.07193). The teacher is what is evaluated.

Of RAD-DINO, the model card states the pictures' size, their pixels' mean and deviation, 40 pictures on each of 64 GPUs
and the start from DINOv2; the size of the released head is that of 65,536 prototypes of width 256. All else is as in
DINOv2's released code (configs/ssl_default_config.yaml), with its balancing and separate heads; what the paper changes
of it (crops, rates, length) could not be checked. Unlike there, the gradient is clipped as a whole and not by part,
crops are resized bilinearly, each global crop is masked by chance and not every second one, KoLeo is over the whole
batch, and there is no stochastic depth.
"""

from math import sqrt

from experiments import clip, mixed_barlow
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.openmoji.masks import OpenMojiMasks
from jaxrep.data.openmoji.scenes import OpenMojiScenes
from jaxrep.data.sources.files import ImageFolder
from jaxrep.data.sources.label_maps import LabelMaps
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.evals.classification.knn import Knn
from jaxrep.evals.classification.linear_probe import LinearProbe
from jaxrep.evals.dense.segmentation import Segmentation
from jaxrep.methods.self_supervised.self_distillation import PrototypeHead, SelfDistillation
from jaxrep.methods.state import Ema
from jaxrep.objectives.base import Term
from jaxrep.objectives.distillation import Dino, Ibot, KoLeo
from jaxrep.optim.optimizers import AdamW
from jaxrep.optim.rules import LayerDecay, LearningRate, LearningRateSchedule, WeightDecay
from jaxrep.recipe import Checkpointing, Data, Pretrained, Recipe
from jaxrep.schedules import Constant, Cosine, Ramp, WarmupCosine
from jaxrep.spec import replace
from jaxrep.views.base import View
from jaxrep.views.blur import GaussianBlur
from jaxrep.views.color import ColorJitter, Solarize
from jaxrep.views.copies import Copy
from jaxrep.views.crop import RandomResizedCrop
from jaxrep.views.geometry import RandomHorizontalFlip
from jaxrep.views.mask import BlockMask

BATCH, PICTURES = 40 * 64, 882_775
EPOCH = PICTURES // BATCH  # steps
FINDINGS = ImageFolder(path="findings/train", image_size=518, classes=2)  # point this at pictures of your own


def views(sizes: tuple[int, int], scales: tuple[tuple[float, float], ...], count: int, hide: BlockMask) -> list[View]:
    """Two global crops with hidden patches and some local ones. The pictures are grey: of DINOv2's color jitter what
    changes saturation and hue is left out."""
    found: list[View] = []
    for name, blur, local in (("a", 1.0, 0), ("b", 0.1, 0), ("local", 0.5, 1)):
        found += [
            Copy("image", out=name, count=count * local),
            RandomResizedCrop(name, size=sizes[local], scale=scales[local]),
            RandomHorizontalFlip(name),
            ColorJitter(name, brightness=0.4, contrast=0.4, p=0.8),
            GaussianBlur(name, p=blur),
        ]
    return [*found, Solarize("b", p=0.2), *(replace(hide, {"of": name}) for name in "ab")]


def objective(warmup: int) -> dict[str, Term]:
    """The teacher's temperature rises during the first steps."""
    warm = Ramp(start=0.04, end=0.07, steps=warmup)
    koleo = KoLeo(weight=Constant(value=0.1))
    return {"dino": Dino(teacher_temperature=warm), "ibot": Ibot(teacher_temperature=warm), "koleo": koleo}


def last_layer(steps: int) -> tuple[LearningRateSchedule, ...]:
    """The prototypes stand still at first."""
    names = (f"{head}/{part}" for head in ("head", "patch_head") for part in ("prototypes", "lengths"))
    return tuple(LearningRateSchedule(path=name, factor=Ramp(start=0.0, end=1.0, after=steps)) for name in names)


def outlines(part: str) -> LabelMaps:
    """Point this at outlines of your own, as those of lungs: maps of 0 and 1 beside the pictures."""
    return LabelMaps(path=f"outlines/{part}/pictures", masks=f"outlines/{part}/maps", image_size=518, classes=2)


recipe = Recipe(
    data=Data(
        train=ImageFolder(path="chest-x-rays", image_size=518, labels_from_folders=False), batch_size=BATCH, texts=()
    ),
    # Local crops have the size of DINOv2's, 98 pixels to global ones of 224.
    views=tuple(views((518, 224), ((0.32, 1.0), (0.05, 0.32)), count=8, hide=BlockMask(patch=14))),
    method=SelfDistillation(
        image=ViT.b16(
            stem=PatchStem(patch=14),
            layer_scale=1.0,
            norm_epsilon=1e-6,
            mask_token=True,
            any_size=True,
            pixels=PixelNorm(mean=(0.5307,) * 3, std=(0.2583,) * 3),
        ),
    ),
    objective=objective(30 * EPOCH),
    optimizer=AdamW(
        weight_decay=Cosine(start=0.04, end=0.4),
        clip_norm=3.0,
        rules=(
            *(WeightDecay(path=f"image/{token}", factor=1.0) for token in ("class_token", "mask_token")),
            LearningRate(path="image/stem/**", factor=0.2),
            LayerDecay(path="image", factor=0.9),
            *last_layer(EPOCH),
        ),
    ),
    schedule=WarmupCosine(peak=0.004 * sqrt(BATCH / 1024), warmup_steps=10 * EPOCH, end=1e-6),
    examples=100 * EPOCH * BATCH,
    init={"image": Pretrained("dinov2-base")},
    evals=(
        Segmentation(train=outlines("train"), data=outlines("test"), background=False),
        *(kind(train=FINDINGS, data=replace(FINDINGS, path="findings/test")) for kind in (LinearProbe, Knn)),
    ),
    checkpoint=Checkpointing(every_steps=1_000),
)

tiny = recipe.replace(
    data=Data(train=OpenMoji(image_size=48), batch_size=128, texts=()),
    views=tuple(views((48, 24), ((0.5, 1.0), (0.2, 0.5)), count=4, hide=BlockMask(patch=12, smallest=1))),
    method=SelfDistillation(
        image=replace(clip.TINY_IMAGE, pool="cls", mask_token=True, any_size=True),
        head=PrototypeHead(prototypes=256, hidden=128, width=64),
        patch_head=PrototypeHead(prototypes=256, hidden=128, width=64),
        teacher=Ema(of=("image", "head", "patch_head"), momentum=Cosine(start=0.95, end=1.0)),
    ),
    objective=objective(100),
    optimizer=AdamW(weight_decay=Constant(value=0.04), clip_norm=3.0, rules=last_layer(20)),
    schedule=WarmupCosine(peak=2e-3, warmup_steps=50),
    examples=400 * 128,
    init={},
    evals=(
        *mixed_barlow.tiny.evals,
        # Scenes of 8 x 8 patches. What is held out at random is of every group; training saw it without its group.
        Segmentation(
            train=OpenMojiMasks(scenes=OpenMojiScenes(split="random", count=200)),
            data=OpenMojiMasks(scenes=OpenMojiScenes(split="random", part="test", count=100)),
            background=False,
            l2=10.0,
        ),
    ),
)
