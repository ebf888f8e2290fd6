"""Matryoshka representations: good at every prefix (Kusupati et al. 2022, arXiv:2205.13147).

``recipe`` is the paper's ALIGN-MRL; ``imagenet`` its ResNet-50 with a classifier a width, ``imagenet_e`` with one
that is shared (MRL-E). The paper trains the ResNets at resolutions that grow from 160 to 192 px; here it is 160 px
throughout.
"""

from experiments import align, clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.files import ImageFolder
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.bert import Bert
from jaxrep.evals.classification.classification import Classification
from jaxrep.methods.classifier import Classifier
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import LogitScale
from jaxrep.objectives.classification import CrossEntropy
from jaxrep.objectives.matryoshka import Matryoshka
from jaxrep.optim.optimizers import Adafactor, Sgd
from jaxrep.recipe import Data, Recipe
from jaxrep.schedules import Constant, WarmupLinear
from jaxrep.views.crop import RandomResizedCrop
from jaxrep.views.geometry import RandomHorizontalFlip, RandomTranslate

WIDTHS = (12, 24, 48, 96, 192, 384, 768)  # section 4.1, of ViT-B/16 and BERT-base
RESNET_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # section 4.1
TINY_WIDTHS = (8, 16, 32, 64, 128)

recipe = align.recipe.replace(
    {
        "data.batch_size": 4_096,  # appendix C: 64 a TPU on an 8 x 8 pod
        "method": DualEncoder(
            towers={"image": ViT.b16(), "text": Bert.base()}, dim=768, scale=LogitScale(init=1.0, max=1_000.0)
        ),
        "views.0.size": 288,  # ALIGN's 289 px are no multiple of the patch of 16
    },
    objective={"matryoshka": Matryoshka(term=align.recipe.objective["contrastive"], dims=WIDTHS)},  # eq. 1, c_m = 1
    optimizer=Adafactor(),  # appendix C
    schedule=WarmupLinear(peak=1e-3, warmup_steps=10_000),  # appendix C; the warm-up is ALIGN's
    examples=1_000_000 * 4_096,
)

tiny = clip.tiny.replace(
    objective={"matryoshka": Matryoshka(term=clip.tiny.objective["contrastive"], dims=TINY_WIDTHS)},
)

imagenet = Recipe(
    data=Data(train=ImageFolder(path="imagenet/train", image_size=256, classes=1_000), batch_size=512, texts=()),
    views=(RandomResizedCrop("image", size=160), RandomHorizontalFlip("image")),
    method=Classifier(encoder=ResNet.resnet50(blur=True), classes=1_000, dims=RESNET_WIDTHS),
    objective={f"d{d}": CrossEntropy("image", f"classes/{d}", label_smoothing=0.1) for d in RESNET_WIDTHS},
    optimizer=Sgd(momentum=0.9, weight_decay=Constant(value=1e-4)),  # appendix C
    schedule=WarmupLinear(peak=0.475, warmup_steps=5_005),  # appendix C; two epochs of rise, as FFCV's code has it
    epochs=40,
    evals=(Classification(data=ImageFolder(path="imagenet/val", image_size=160, classes=1_000), dims=RESNET_WIDTHS),),
)

imagenet_e = imagenet.replace(
    {"method.dims": ()},
    objective={
        "matryoshka": Matryoshka(term=CrossEntropy("image", "classes", label_smoothing=0.1), dims=RESNET_WIDTHS)
    },
    evals=(Classification(data=ImageFolder(path="imagenet/val", image_size=160, classes=1_000)),),
)

tiny_classifier = imagenet.replace(
    {"optimizer.clip_norm": 1.0},
    data=Data(train=OpenMoji(image_size=48), batch_size=256, texts=()),
    views=(RandomTranslate("image", pixels=3),),
    method=Classifier(
        encoder=ResNet(depths=(1, 1, 1), width=32, bottleneck=False, stem="small"),
        classes=10,
        dims=(8, 16, 32, 64, 128),
    ),
    objective={f"d{d}": CrossEntropy("image", f"classes/{d}", label="group") for d in TINY_WIDTHS},
    schedule=WarmupLinear(peak=0.1, warmup_steps=50),
    examples=300 * 256,
    evals=(Classification(data=OpenMoji(image_size=48, part="test"), label="group", dims=TINY_WIDTHS),),
)
