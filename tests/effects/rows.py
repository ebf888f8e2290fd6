"""The rows of the table of effects in docs/recipes.md."""

from experiments import clip, coop, metaclip
from jaxrep.evals.zeroshot import ZeroShot
from jaxrep.recipe import Recipe
from tests.effects.measure import Effect

COMPOSITION = {
    "composition/replace/skin_tone": "right among skin tones",
    "composition/replace/gender": "right among genders",
    "composition/exchange/skin_tone": "whose skin tone",
    "retrieval/image_to_text/r1": "image to text R@1",
}


def fine_tuned(recipe: Recipe) -> Recipe:
    """The same fine-tuning with CLIP's data, method and objective."""
    tiny = clip.tiny
    return recipe.replace(data=tiny.data, method=tiny.method, objective=tiny.objective)


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
    "grain": Effect(
        claim="regions grounded in their descriptions help to recognise what is seen",
        recipe="grain.py:tiny",
        without=lambda recipe: recipe.replace(objective={"captions": recipe.objective["captions"]}),
        baseline="the same queries with captions alone",
        metrics={
            "recognition/image_to_text/r1": "single unseen pictures to names R@1",
            "retrieval/image_to_text/r1": "unseen scenes to captions R@1",
        },
    ),
    "metaclip": Effect(
        claim="a pool balanced over its concepts beats the pool as it is",
        recipe="metaclip.py:tiny",
        without=lambda recipe: recipe.replace({"data.train": metaclip.pool}),
        baseline="CLIP on the heavy-tailed pool",
        metrics={"retrieval/image_to_text/r1": "image to text R@1", "zeroshot/top1": "zero-shot accuracy, 10 groups"},
    ),
    "negclip": Effect(
        claim="wrong captions as negatives teach what words belong to",
        recipe="negclip.py:tiny",
        without=fine_tuned,
        baseline="CLIP, fine-tuned as long",
        metrics=COMPOSITION,
    ),
    "rs_m_clip": Effect(
        claim="captions in ten languages and self-distillation help retrieval in each of them, English too",
        recipe="rs_m_clip.py:tiny",
        without=lambda recipe: recipe.replace(
            data=clip.tiny.data, views=clip.tiny.views, method=clip.tiny.method, objective=clip.tiny.objective
        ),
        baseline="CLIP on English names",
        metrics={
            f"retrieval/{name}/image_to_text/r1": f"image to text R@1, {name}" for name in ("en", "es", "zh", "ru")
        },
    ),
    "structure_clip": Effect(
        claim="a margin to wrong captions and triples beside the text teach what words belong to",
        recipe="structure_clip.py:tiny",
        without=fine_tuned,
        baseline="CLIP, fine-tuned as long",
        metrics=COMPOSITION,
    ),
}
