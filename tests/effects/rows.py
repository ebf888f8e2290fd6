"""The rows of the table of effects in docs/recipes.md."""

from experiments import clip, coop, metaclip
from jaxrep.evals.zeroshot import ZeroShot
from tests.effects.measure import Effect

EFFECTS: dict[str, Effect] = {
    "coop": Effect(
        claim="16 shots of learnt context beat a prompt by hand",
        recipe="coop.py:tiny",
        without=lambda recipe: clip.tiny,
        baseline="CLIP, zero-shot with the names of the groups",
        metrics={"classification/top1": "accuracy, 10 groups"},
        evals=(ZeroShot(data=coop.emoji("test"), label="group", name="groups"),),
        other_names={"classification/top1": "groups/top1"},
    ),
    "metaclip": Effect(
        claim="a pool balanced over its concepts beats the pool as it is",
        recipe="metaclip.py:tiny",
        without=lambda recipe: recipe.replace({"data.train": metaclip.pool}),
        baseline="CLIP on the heavy-tailed pool",
        metrics={"retrieval/image_to_text/r1": "image to text R@1", "zeroshot/top1": "zero-shot accuracy, 10 groups"},
    ),
}
