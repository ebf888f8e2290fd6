"""Declare the rows of the table of effects in docs/recipes.md."""

from collections.abc import Callable
from dataclasses import replace

from experiments import common
from experiments.image_text import clip, metaclip
from experiments.multimodal import astrom3
from experiments.vision import rad_dino
from jaxrep import Recipe, data, evals, methods
from results import budgets, siamese
from results.budgets import RETRIEVAL
from results.features import FEATURES, features
from results.lab import STEPS
from results.measure import Effect

TUNED = 200
"""Steps of training from a trained CLIP."""

UNSEEN = common.emoji("test")

COMPOSITION = {
    "composition/exchange/skin_tone": "whose skin tone",
    "composition/replace/skin_tone": "right among skin tones",
    "composition/replace/gender": "right among genders",
    "retrieval/image_to_text/r1": "image to text R@1",
}
SUBGROUPS = evals.LinearProbe(
    train=common.half(False),
    data=common.half(True),
    label="subgroup",
    hold_out_by="concept",
    max_iterations=20,
    name="probe/subgroup",
)
UNIFORMITY = "geometry/image/uniformity"
SPACE = {
    "geometry/image_text/modality_gap": "modality gap (less is better)",
    UNIFORMITY: "uniformity of images (less is better)",
    "geometry/image_text/alignment": "distance of pairs (less is better)",
    "composed/gender/r1": "picture - man + woman R@1",
    "composed/skin_tone/r1": "picture - one skin tone + another R@1",
    "retrieval/image_to_text/r1": "image to text R@1",
}


def clip_alone(recipe: Recipe) -> Recipe:
    """Return the tiny CLIP."""
    return clip.tiny


def fine_tuned(recipe: Recipe) -> Recipe:
    """Return the same fine-tuning with CLIP's data, method and objective."""
    tiny = clip.tiny
    return recipe.replace(data=tiny.data, method=tiny.method, objective=tiny.objective)


def first_term(recipe: Recipe) -> Recipe:
    """Return the recipe with the first term of the objective only."""
    name = next(iter(recipe.objective))
    return recipe.replace(objective={name: recipe.objective[name]})


def terms(*names: str) -> Callable[[Recipe], Recipe]:
    """Return a change of a recipe that keeps these terms of the objective only."""
    return lambda recipe: recipe.replace(objective={name: recipe.objective[name] for name in names})


def drawn_caption(recipe: Recipe) -> Recipe:
    """Return CLIP on the same captions, of which an example shows one, drawn anew each epoch."""
    captions = data.SampleCaption(source=recipe.data.train, probabilities={"text": 1.0})
    return recipe.replace(
        {"data.train": captions, "method.grouping": methods.NoTokenGrouping()}, objective=clip.tiny.objective
    )


def languages(claim: str, names: tuple[str, ...]) -> Effect:
    """Return a row of RS-M-CLIP beside CLIP on English names, measured in some languages."""
    return Effect(
        claim=claim,
        recipe="rs_m_clip:tiny",
        without=clip_alone,
        baseline="CLIP on English names",
        metrics={f"retrieval/{name}/image_to_text/r1": f"image to text R@1, {name}" for name in names},
    )


def cold(recipe: Recipe) -> Recipe:
    """Return the recipe with the temperature held at 1."""
    return recipe.replace({"method.scale": methods.LogitScale(init=1.0, trainable=False)})


M2MIX = Effect(
    claim="mixtures on the sphere as negatives and pairs make the space uniform and aligned",
    recipe="m2mix:tiny",
    without=first_term,
    baseline="CLIP's loss, fine-tuned as long",
    metrics={UNIFORMITY: SPACE[UNIFORMITY], **SPACE},
    better="lower",
    resolution=0.05,
    steps=TUNED,
)

DREAMLIP = Effect(
    claim="several captions an image, grouped with its patches, help retrieval and recognition",
    recipe="dreamlip:tiny",
    without=clip_alone,
    baseline="CLIP on one caption",
    metrics={**RETRIEVAL, "zeroshot/top1": "zero-shot, 10 groups"},
)

EFFECTS: dict[str, Effect] = {
    "temperature": Effect(
        claim="a temperature held at 1 is as good as a learned one (no paper's claim: the row has to be reversed)",
        recipe="clip:tiny",
        without=clip_alone,
        change=cold,
        baseline="CLIP",
        metrics=RETRIEVAL,
    ),
    "siglip": Effect(
        claim="the sigmoid loss is as good as the softmax",
        recipe="siglip:tiny",
        without=clip_alone,
        baseline="CLIP",
        metrics={**RETRIEVAL, "zeroshot/top1": "zero-shot, 10 groups"},
    ),
    "negclip": Effect(
        claim="wrong captions as negatives teach what words belong to",
        recipe="negclip:tiny",
        without=fine_tuned,
        baseline="CLIP, fine-tuned as long",
        metrics=COMPOSITION,
        steps=TUNED,
    ),
    "negclip_before": Effect(
        claim="and what the CLIP knew of that before",
        recipe="negclip:tiny",
        without=lambda recipe: clip.tiny,
        baseline="CLIP as it was fine-tuned from",
        metrics=COMPOSITION,
        steps=TUNED,
        baseline_steps=STEPS,
    ),
    "structure_clip": Effect(
        claim="a margin to wrong captions and triples beside the text teach what words belong to (texts read alone)",
        recipe="structure_clip:tiny",
        without=fine_tuned,
        baseline="CLIP, fine-tuned as long",
        metrics=COMPOSITION,
        steps=TUNED,
    ),
    "contrastive_gap": Effect(
        claim="uniformity and alignment close the gap between the modalities",
        recipe="contrastive_gap:tiny",
        without=first_term,
        baseline="CLIP's loss, fine-tuned as long",
        metrics=SPACE,
        better="lower",
        resolution=0.01,
        steps=TUNED,
    ),
    "m2mix": M2MIX,
    "m2mix_negatives": replace(
        M2MIX,
        claim="mixtures as negatives alone (m2-Mix) make the space uniform",
        change=terms("contrastive", "m2_mix"),
    ),
    "m2mix_pairs": replace(
        M2MIX,
        claim="mixed pairs alone (V-, L- and VL-Mix) make the space uniform",
        change=terms("contrastive", "v_mix", "l_mix", "vl_mix"),
    ),
    "long_clip": Effect(
        claim="matching principal components with short captions keeps what CLIP knows of them",
        recipe="long_clip:tiny",
        without=first_term,
        baseline="long captions alone, as long",
        metrics={
            "short/image_to_short/r1": "image to short text R@1",
            "retrieval/image_to_text/r1": "image to long text R@1",
            "short/short_to_image/r1": "short text to image R@1",
        },
        steps=TUNED,
        evals=(evals.Retrieval(data=data.FirstSentence(source=UNSEEN, end=": "), text="short", name="short"),),
    ),
    "dreamlip": DREAMLIP,
    "dreamlip_captions": replace(
        DREAMLIP,
        claim="several captions of an image at once teach more than one of them at a time",
        without=drawn_caption,
        baseline="CLIP on one of the same captions, drawn anew each epoch",
    ),
    "dreamlip_grouping": replace(
        DREAMLIP,
        claim="grouping each caption with its patches adds to several captions",
        without=first_term,
        baseline="several captions without grouping",
    ),
    "rs_m_clip": languages(
        "captions in ten languages and self-distillation help retrieval in each", ("es", "zh", "ru")
    ),
    "rs_m_clip_english": languages("and in English too", ("en",)),
    "astrom3": Effect(
        claim="a third modality makes a tower better that is used alone",
        recipe="astrom3:tiny",
        without=clip_alone,
        baseline="CLIP on two modalities, all rows complete",
        metrics={
            "probe/subgroup/top1": "linear probe on images of new concepts, 100 subgroups",
            "retrieval/image_to_text/r1": "image to text R@1",
        },
        evals=(SUBGROUPS,),
        baseline_evals=(evals.Retrieval(data=astrom3.emoji("test")), SUBGROUPS),  # it has no tower for German
    ),
    "coop": Effect(
        claim="16 shots of learned context beat a prompt by hand",
        recipe="coop:tiny",
        without=lambda recipe: clip.tiny,
        baseline="CLIP, zero-shot with the names of the groups",
        metrics={"classification/top1": "accuracy, 10 groups"},
        batch_size=32,
        baseline_steps=STEPS,
        why="the paper's batches and its epochs of 16 images per class",
        baseline_evals=(evals.ZeroShot(data=common.emoji("test", split="random"), label="group", name="groups"),),
        baseline_names={"classification/top1": "groups/top1"},
    ),
    "metaclip": Effect(
        claim="a pool balanced over its concepts beats the pool as it is",
        recipe="metaclip:tiny",
        without=lambda recipe: recipe.replace({"data.train": metaclip.pool}),
        baseline="CLIP on the heavy-tailed pool",
        metrics={**RETRIEVAL, "zeroshot/top1": "zero-shot, 10 groups"},
    ),
    "two_d_matryoshka": Effect(
        claim="layers and widths that were trained are good alone, at little cost to the last",
        recipe="two_d_matryoshka:tiny",
        without=lambda recipe: recipe.replace(objective={"last": recipe.objective["last"].term}),  # pyright: ignore[reportAttributeAccessIssue]
        baseline="contrast of the last layer at full width",
        metrics={
            "layers/1/8/r1": "German to English R@1, layer 1, width 8",
            "layers/2/128/r1": "layer 2, full width",
            "layers/4/8/r1": "last layer, width 8",
            "layers/4/128/r1": "last layer, full width",
        },
        steps=100,
        why="longer, both sides find nearly all pairs",
    ),
    "grain": Effect(
        claim="regions grounded in their descriptions help to recognize what is seen",
        recipe="grain:tiny",
        without=first_term,
        baseline="the same queries with captions alone",
        metrics={
            "recognition/image_to_text/r1": "single unseen pictures to names R@1",
            "retrieval/image_to_text/r1": "unseen scenes to captions R@1",
        },
        batch_size=64,
        why="scenes hold four pictures each",
    ),
    "metrix": Effect(
        claim="mixtures of embeddings teach more than the examples do, and use the space better",
        recipe="metrix:tiny",
        without=first_term,
        baseline="the multi-similarity loss alone",
        metrics={"same_class/r1": "R@1 of concepts", "utilization": "utilization (less is better)", **FEATURES},
        evals=common.probes(),
    ),
    **features("metrix", "its features are better than simpler ones", common.probes(), FEATURES),
    "mixed_barlow": Effect(
        claim="mixed inputs guard Barlow Twins against overfitting",
        recipe="mixed_barlow:tiny",
        without=first_term,
        baseline="Barlow Twins",
        metrics=FEATURES,
    ),
    **features("mixed_barlow", "its features are better than simpler ones", common.probes(), FEATURES),
    **features(
        "rad_dino",
        "self-distillation without texts learns features of use, of patches too",
        rad_dino.tiny.evals,
        {**FEATURES, "segmentation/mean_iou": "linear segmentation, mean IoU"},
    ),
    **siamese.EFFECTS,
    **budgets.EFFECTS,
}
