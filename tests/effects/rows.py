"""The rows of the table of effects in docs/recipes.md."""

from experiments import clip, coop
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
}
