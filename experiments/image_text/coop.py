"""CoOp: Learning to Prompt for Vision-Language Models (Zhou et al. 2022, arXiv:2109.01134).

Learned vectors replace the words of a prompt. All else is frozen.

``jaxrep train coop:tiny`` takes less than a minute on two cores, after the training of ``clip:tiny`` that it starts
from. Accuracy among 10 groups rises by 0.297 ± 0.067 from that of CLIP with the groups' names, zero-shot
(docs/recipes.md).
"""

from experiments import common
from experiments.image_text import clip
from jaxrep import Data, From, Pretrained, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

TOWERS = ("image", "image_head", "text", "text_head", "scale")
FROZEN = tuple(optim.Freeze(path=f"{part}/**") for part in TOWERS)
"""Only the context is learned (section 3.2)."""

SHOTS, CLASSES, BATCH = 16, 1_000, 32
CLIP = "clip-vit-base-patch16"  # a public checkpoint, in a folder of this name

# Batch, size, views, rate, warm-up and epochs were read in the released configuration (KaiyangZhou/CoOp,
# configs/trainers/CoOp/vit_b16_ep50.yaml), momentum, weight decay and the crop of the whole picture in the library it
# runs on (KaiyangZhou/Dassl.pytorch). There the rate changes once per epoch and the cosine starts anew after the first
# one, without its last two steps; here it changes at every step. Crops are resized by cubic interpolation there.
recipe = Recipe(
    data=Data(
        train=data.FewShot(
            source=data.ImageFolder(
                path="imagenet/train", crop=data.HostRandomResizedCrop(scale=(0.08, 1.0)), classes=CLASSES
            ),
            count=SHOTS,
        ),
        batch_size=BATCH,
        tokenizer=data.ClipBpe(vocabulary="bpe_simple_vocab_16e6.txt.gz", length=77),
        texts=(),
        tables={
            "classes": data.ClassTexts(template="{}.", reserved_tokens=16)
        },  # the name ends the prompt (section 3.2)
    ),
    views=(views.RandomHorizontalFlip("image"),),
    method=methods.PromptLearner(
        image=encoders.ViT.b16().as_clip(),  # one of the paper's four backbones; most of its tables have ResNet-50
        text=encoders.TextTransformer.clip_b(),
        scale=methods.LogitScale(init=100.0, max=100.0),
        context=methods.Context(tokens=16),  # section 4.1: M = 16, unified
    ),
    objective={"classes": objectives.CrossEntropy("image")},
    optimizer=optim.Sgd(momentum=0.9, weight_decay=schedules.Constant(value=5e-4), rules=FROZEN),
    # Section 4.1: 2e-3, a cosine, and 1e-5 in the first epoch; 50 epochs on ImageNet for any number of shots.
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=SHOTS * CLASSES // BATCH, held=1e-5),
    epochs=50,
    init={part: Pretrained(CLIP) for part in TOWERS},
    evals=(evals.Classification(data=data.ImageFolder(path="imagenet/val", image_size=224, classes=CLASSES)),),
)

class_specific = recipe.replace({"method.context.class_specific": True})


def few(shots: int) -> Recipe:
    """Return the recipe with fewer shots. The first of its shorter epochs keeps the rate of 1e-5."""
    return recipe.replace({"data.train.count": shots, "schedule.warmup_steps": shots * CLASSES // BATCH})


shots_1 = few(1)
shots_2 = few(2)
shots_4 = few(4)
shots_8 = few(8)

# The split is random, since the compositional one holds out pictures of one group. CLIP was trained on pictures of both
# parts, with names and without groups.
tiny = recipe.replace(
    data=Data(
        train=data.FewShot(source=common.emoji(split="random"), count=SHOTS, label="group"),
        batch_size=BATCH,
        tokenizer=clip.tiny.data.tokenizer,
        tables={"classes": data.ClassTexts(label="group", reserved_tokens=4)},
    ),
    views=clip.tiny.views,
    # A context per class: in so small a text tower a shared one moves all names alike, and nothing is learned.
    method=methods.PromptLearner(
        image=common.IMAGE,
        text=common.TEXT,
        dim=96,
        context=methods.Context(tokens=4, class_specific=True),
        after=0,
    ),
    objective={"classes": objectives.CrossEntropy("image", label="group")},
    schedule=schedules.WarmupCosine(peak=3.0, warmup_steps=5, held=1e-4),
    epochs=100,
    init={part: From(clip.tiny) for part in TOWERS},
    evals=(evals.Classification(data=common.emoji("test", split="random"), label="group"),),
)
