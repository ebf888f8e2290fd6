"""CoOp: learned vectors in place of a prompt's words, all else frozen (Zhou et al. 2022, arXiv:2109.01134)."""

from typing import Literal

from experiments import clip
from jaxrep.data.class_texts import ClassTexts
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.files import ImageFolder
from jaxrep.data.tokenizers.subwords import ClipBpe
from jaxrep.data.transforms.select import FewShot
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.evals.classification.classification import Classification
from jaxrep.methods.dual_encoder.prompts import Context, PromptLearner
from jaxrep.methods.heads import LogitScale
from jaxrep.objectives.classification import CrossEntropy
from jaxrep.optim.optimizers import Sgd
from jaxrep.optim.rules import Freeze
from jaxrep.recipe import Data, From, Pretrained, Recipe
from jaxrep.schedules import Constant, WarmupCosine
from jaxrep.views.crop import RandomResizedCrop
from jaxrep.views.geometry import RandomHorizontalFlip

TOWERS = ("image", "image_head", "text", "text_head", "scale")
FROZEN = tuple(Freeze(path=f"{part}/**") for part in TOWERS)
"""Only the context is learned (section 3.2)."""

SHOTS, CLASSES, BATCH = 16, 1_000, 32  # the batch and the weight decay are the released code's
CLIP = "clip-vit-base-patch16"  # a public checkpoint, in a folder of this name

recipe = Recipe(
    data=Data(
        train=FewShot(source=ImageFolder(path="imagenet/train", image_size=256, classes=CLASSES), count=SHOTS),
        batch_size=BATCH,
        tokenizer=ClipBpe(vocabulary="bpe_simple_vocab_16e6.txt.gz", length=77),
        texts=(),
        tables={"classes": ClassTexts(template="{}.", room=16)},  # the name ends the prompt (section 3.2)
    ),
    views=(RandomResizedCrop("image", size=224), RandomHorizontalFlip("image")),
    method=PromptLearner(
        image=ViT.b16().as_clip(),  # one of the paper's four backbones; most of its tables have ResNet-50
        text=TextTransformer.clip_b(),
        scale=LogitScale(init=100.0, max=100.0),
        context=Context(tokens=16),  # section 4.1: M = 16, unified
    ),
    objective={"classes": CrossEntropy("image")},
    optimizer=Sgd(momentum=0.9, weight_decay=Constant(value=5e-4), rules=FROZEN),
    # Section 4.1: 2e-3, a cosine, and 1e-5 in the first epoch; 50 epochs on ImageNet for any number of shots.
    schedule=WarmupCosine(peak=2e-3, warmup_steps=SHOTS * CLASSES // BATCH, held=1e-5),
    epochs=50,
    init={part: Pretrained(CLIP) for part in TOWERS},
    evals=(Classification(data=ImageFolder(path="imagenet/val", image_size=224, classes=CLASSES)),),
)

class_specific = recipe.replace({"method.context.class_specific": True})


def few(shots: int) -> Recipe:
    """The same with fewer shots; 1e-5 is held for an epoch of them."""
    return recipe.replace({"data.train.count": shots, "schedule.warmup_steps": shots * CLASSES // BATCH})


shots_1 = few(1)
shots_2 = few(2)
shots_4 = few(4)
shots_8 = few(8)


def emoji(part: Literal["train", "test"]) -> OpenMoji:
    """At random, as what is held out of the other split is of one group; CLIP has seen pictures of both parts, with
    names and not with groups."""
    return OpenMoji(image_size=48, split="random", part=part)


tiny = recipe.replace(
    data=Data(
        train=FewShot(source=emoji("train"), count=SHOTS, label="group"),
        batch_size=BATCH,
        tokenizer=clip.tiny.data.tokenizer,
        tables={"classes": ClassTexts(label="group", room=4)},
    ),
    views=clip.tiny.views,
    # A context of each class: in so small a text tower one for all moves the names alike, and nothing is learned.
    method=PromptLearner(
        image=clip.TINY_IMAGE,
        text=clip.TINY_TEXT,
        dim=128,
        context=Context(tokens=4, class_specific=True),
        after=0,
    ),
    objective={"classes": CrossEntropy("image", label="group")},
    schedule=WarmupCosine(peak=3.0, warmup_steps=5, held=1e-4),
    epochs=100,
    init={part: From(clip.tiny) for part in TOWERS},
    evals=(Classification(data=emoji("test"), label="group"),),
)
