"""Share what the tiny recipes have in common: towers, the embedded data, views and evaluations.

A tiny recipe trains on OpenMoji pictures of 32 x 32 pixels and their names. It is made for two CPU cores. The time that
its file states is that of CLIP's whole training, or is extrapolated from the processor time of ten steps.
"""

from functools import partial
from typing import Literal

from jaxrep import Data, Recipe, data, encoders, evals, optim, schedules, views

SIZE = 32
"""Height and width of the pictures."""

IMAGE = encoders.ViT(
    width=96,
    depth=2,
    heads=4,
    activation="relu",  # the fastest activation on CPUs
    pool="mean",
    positions="sincos",
    stem=encoders.ConvStem(channels=(16, 32), patch=2),
)
"""Image tower of 4 x 4 tokens."""
CONVOLUTIONS = encoders.ResNet(depths=(1, 1, 1), width=16, bottleneck=False)
"""Image tower of learners of views: a residual network with batch norm, of 8 x 8, 4 x 4 and 2 x 2 places."""
TEXT = encoders.TextTransformer(width=96, depth=1, heads=4, activation="relu", causal=False, pool="mean")
"""Text tower."""


def lanes(count: int) -> data.Windowed:
    """Return the order of shards in an object store: up to ``count`` hosts share none, if their number divides it.

    Papers state no such order; the numbers are ours. The windows of all lanes hold 64 shards, as many as those of one
    lane by default, so that their indices fit in the memory of one host. A recipe has at most 32 lanes (the hosts of
    256 GPUs), and so few that a lane has 25 shards or more, and its examples come at most 1% more often than others'.
    """
    return data.Windowed(shards=64 // count, lanes=count)


IDS = ("image_id", "text_id")
"""Fields that show identical pictures and identical names in a batch. They are not negatives of each other."""

SHIFT = views.RandomTranslate("image", pixels=2)
JITTER = views.ColorJitter("image", brightness=0.02, contrast=0.02, saturation=0.02)


def emoji(
    part: Literal["train", "test", "all"] = "train",
    split: Literal["compositional", "random"] = "compositional",
    languages: tuple[data.Language, ...] = ("en",),
) -> data.OpenMoji:
    """Return OpenMoji pictures with their names.

    Args:
        part: side of the split.
        split: what is held out: skin tones of concepts (``compositional``), or a tenth of all pictures (``random``).
        languages: languages of the names.
    """
    return data.OpenMoji(image_size=SIZE, part=part, split=split, languages=languages)


def half(rest: bool) -> data.Fraction:
    """Return all pictures of half of the concepts; ``rest``: of the other half."""
    return data.Fraction(source=emoji("all"), share=0.5, by="concept", rest=rest)


def classify(test: data.OpenMoji) -> tuple[evals.Eval, ...]:
    """Return retrieval on held-out pictures, and zero-shot classification into the ten groups.

    Groups are measured on the random split: the compositional one holds out people only, which are one group.
    """
    return (evals.Retrieval(data=test), evals.ZeroShot(data=emoji("test", split="random"), label="group"))


def embedding_space() -> tuple[evals.Eval, ...]:
    """Return the geometry of the embeddings, and arithmetic on images, on held-out pictures."""
    return (evals.EmbeddingSpace(data=emoji("test")), evals.ComposedQueries(data=emoji("test")))


def probes(*labels: str) -> tuple[evals.Eval, ...]:
    """Return linear probes and nearest neighbors on frozen image features.

    Groups are measured on pictures of other concepts, since raw pixels find the group among variants of one drawing.
    The penalty of their probe is chosen on other concepts too. Concepts are measured on held-out pictures.

    Args:
        labels: ``group``, ``concept`` or both; by default both.
    """
    sides = {"group": (half(False), half(True), "concept"), "concept": (emoji(), emoji("test"), "")}
    return tuple(
        kind(train=train, data=test, label=label, name=name + label)
        for label, (train, test, together) in ((each, sides[each]) for each in labels or sides)
        for name, kind in (
            ("probe/", partial(evals.LinearProbe, max_iterations=20, hold_out_by=together)),
            ("knn/", evals.Knn),
        )
    )


def small(recipe: Recipe, steps: int, *, peak: float = 3e-3, rules: tuple[optim.Rule, ...] = ()) -> Recipe:
    """Return a recipe that learns from single pictures, with no labels and no names, at the size of a tiny.

    Args:
        recipe: the recipe, whose method and views the caller replaces.
        steps: its number of steps.
        peak: the highest learning rate.
        rules: rules of the optimizer.
    """
    return recipe.replace(
        data=Data(train=emoji(), batch_size=128, texts=()),
        optimizer=optim.AdamW(weight_decay=schedules.Constant(value=0.05), clip_norm=1.0, rules=rules),
        schedule=schedules.WarmupCosine(peak=peak, warmup_steps=20),
        examples=steps * 128,
        evals=probes(),
    )
