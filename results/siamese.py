"""Declare the rows of learners of views: beside simpler features, beside each other, and parts of one learner.

``LEARNERS`` train one encoder for ``STEPS`` steps, so their towers before training are the same. Their rows are one
table too (``comparison.py``).
"""

from collections.abc import Callable
from dataclasses import replace

from experiments import common
from experiments.vision import byol, mixed_barlow, moco, pixpro, projection_head, simclr
from jaxrep import Recipe, evals, methods
from results.features import FEATURES, features, outputs, untrained
from results.measure import Effect

STEPS = 600
GROUPS = {name: short for name, short in FEATURES.items() if "group" in name}
JUDGED = {**GROUPS, **FEATURES}
"""Metrics of features, the probe of groups first: nearest neighbors of concepts are nearly those of pixels."""
UNIFORMITY = "geometry/image/uniformity"
Change = Callable[[Recipe], Recipe]


def same(recipe: Recipe) -> Recipe:
    """Return the recipe: both sides of a row are outputs of one model."""
    return recipe


def before(recipe: Recipe) -> Recipe:
    """Return the recipe untrained, with the running statistics of its data."""
    return untrained(recipe, steps=50)


def tower(recipe: Recipe) -> Recipe:
    """Return the run whose tower is that of all learners before training."""
    return before(simclr.tiny)


def barlow(recipe: Recipe) -> Recipe:
    """Return Barlow Twins with the encoder, the views and the budget of the others."""
    tiny = simclr.tiny
    changed = recipe.replace(data=tiny.data, views=tiny.views, optimizer=tiny.optimizer, schedule=tiny.schedule)
    return changed.replace({"method.image": common.CONVOLUTIONS}, examples=tiny.examples)


def on_pictures(recipe: Recipe) -> Recipe:
    """Return PixPro on single pictures, whose last maps have 2 x 2 places."""
    views = pixpro.telling(mixed_barlow.SMALL)
    return recipe.replace(data=simclr.tiny.data, views=views, examples=simclr.tiny.examples)


def byol_on_scenes(recipe: Recipe) -> Recipe:
    """Return PixPro's recipe with BYOL's method and objective: pooled features and a predictor of two layers."""
    predictor = methods.Projector(widths=(128, 64))
    return recipe.replace({"method.places": False, "method.predictor": predictor}, objective=byol.recipe.objective)


def supervised(recipe: Recipe) -> Recipe:
    """Return SimCLR's recipe with groups as positives."""
    return recipe.replace({"method.scale.init": 10.0}, objective=simclr.supervised("group"))


def fixed(recipe: Recipe) -> Recipe:
    """Return the recipe with the head that only scales features."""
    return projection_head.with_head(recipe, projection_head.FIXED)


LEARNERS: dict[str, tuple[str, Change | None]] = {
    **{
        name: (f"{name}:tiny", None)
        for name in ("simclr", "moco", "mochi", "byol", "simsiam", "vicreg", "swav", "dino", "obow", "random_teacher")
    },
    "barlow": ("mixed_barlow:barlow_tiny", barlow),
    "pixpro_pictures": ("pixpro:tiny", on_pictures),
}
"""Name of a learner -> its recipe, and what gives the recipe the encoder and the budget of the others."""

CLAIM = "its features are better than simpler ones"
DENSE = {"segmentation/mean_iou": "linear segmentation of scenes, mean IoU"}
SCENES = "scenes of 96 pixels take nine times as long as pictures"

PIXPRO = Effect(
    claim="places that agree segment scenes better than pooled features that agree",
    recipe="pixpro:tiny",
    without=byol_on_scenes,
    baseline="BYOL",
    metrics=DENSE,
    batch_size=64,
    why=SCENES,
)

MOCHI = Effect(
    claim="mixtures of a query's nearest keys as negatives make features better",
    recipe="mochi:tiny",
    without=lambda recipe: moco.tiny,
    baseline="MoCo v2",
    metrics={
        **GROUPS,
        "knn/concept/20/top1": FEATURES["knn/concept/20/top1"],
        UNIFORMITY: "uniformity of images (less is better)",
        "training/loss/mochi/first": "share of queries whose positive comes first (falls)",
    },
    evals=(evals.EmbeddingSpace(data=common.emoji("test"), towers=("image",)),),
    baseline_names={"training/loss/mochi/first": "training/loss/moco/first"},
)


def random_teacher(alpha: float) -> Effect:
    """Return a row of a student beside its own teacher, which never learns."""

    def near(recipe: Recipe) -> Recipe:
        return recipe.replace({"method.teacher.alpha": alpha})

    row = Effect(
        claim=f"a student of a random teacher has better features than the teacher (alpha = {alpha:g})",
        recipe="random_teacher:tiny",
        without=near,
        change=near,
        baseline="its own teacher",
        metrics=JUDGED,
    )
    return outputs(row, common.probes(), "teacher/image", "teacher")


def head(loss: str, change: Change = same, preset: str = "tiny") -> Effect:
    """Return a row of the features before a projection head beside those after it."""
    row = Effect(
        claim=f"features before the projection head are better than those after it ({loss})",
        recipe=f"projection_head:{preset}",
        without=change,
        change=change,
        baseline="the same tower after its head",
        metrics=GROUPS,
    )
    return outputs(row, common.probes("group"), "image/projected", "projected")


EFFECTS: dict[str, Effect] = {
    **{
        row: effect
        for name, (recipe, change) in LEARNERS.items()
        for row, effect in features(
            name, CLAIM, common.probes(), JUDGED, recipe=recipe, change=change, without=tower
        ).items()
    },
    "mochi": MOCHI,
    "pixpro": PIXPRO,
    **{
        name: replace(row, batch_size=64, why=SCENES)
        for name, row in features("pixpro", CLAIM, pixpro.tiny.evals, DENSE, without=before).items()
    },
    **{f"random_teacher_{name}": random_teacher(alpha) for name, alpha in (("far", 1.0), ("half", 0.5), ("near", 0.1))},
    "projection_head": head("SimCLR"),
    "projection_head_fixed": head("SimCLR, fixed head", fixed),
    "projection_head_supcon": head("supervised contrast", supervised),
    "projection_head_labels": head("labels", preset="tiny_labels"),
}
