"""CLIPA: An Inverse Scaling Law for CLIP Training (Li et al. 2023, arXiv:2305.07017).

Towers are trained on small pictures and short texts, and then for a short time on full ones. ``recipe`` is CLIPA's
B/16, ``h14`` CLIPA-v2's H/14, in three stages (arXiv:2306.15658). ``flip`` drops half of the patches instead, and is
tuned with all (Li et al. 2023, Scaling Language-Image Pre-training via Masking, arXiv:2212.00794); ``flip_75`` drops
three quarters.

``jaxrep train clipa:tiny`` takes about 2 minutes on two cores, the small stage included.
"""

from dataclasses import replace

from experiments import common
from experiments.image_text import clip, siglip
from jaxrep import From, data, encoders, evals, methods, optim, schedules, views

PARTS = ("image", "text", "image_head", "text_head", "scale")
IMAGENET = 1_281_167  # pictures; both papers count epochs of so many pairs


def pairs(size: int, area: float = 0.4) -> data.TarShards:
    """Return pairs of LAION, crops of this share of the area at least: point this at shards of your own."""
    crop = data.HostRandomResizedCrop(scale=(area, 1.0))
    return data.TarShards(shards="gs://YOUR-BUCKET/laion/{00000..39999}.tar", image_size=size, crop=crop)


# Numbers were read in the released code (UCSC-VLAA/CLIPA, clipa_jax: configs/, models/). There image towers start as
# Xavier's kernels do, texts have no [SEP], and H/14 has moments in bfloat16, positions of texts resized from the first
# on, and NLTK's part of speech of each entry of the vocabulary.
TOKENIZER = data.TokenizerFile(path="bert-base-uncased/tokenizer.json", length=32, entries=30_522, clean="lower")
TOWER = dict(activation="gelu_tanh", norm_epsilon=1e-6)
IMAGE = dict(**TOWER, positions="sincos", pixels=encoders.PixelNorm.imagenet())
JITTER = dict(brightness=0.32, contrast=0.32, saturation=0.32)
MEAN = dict(**IMAGE, pool="mean", registers=1)  # the class token is there, and not read
# Padding is read as text, and the last position gives the features.
text = encoders.TextTransformer.clip_b(**TOWER, causal=False, pool="eos", end="never")

small = clip.recipe.replace(
    {
        "data.train": pairs(64),
        "data.tokenizer": TOKENIZER,
        "method.towers": {"image": encoders.ViT.b16(**IMAGE, stem=encoders.PatchStem(bias=False)), "text": text},
        "method.scale": methods.LogitScale(init=1 / 0.07, max=1_000.0),  # no limit there
        "optimizer": optim.AdamW(b2=0.95, weight_decay=schedules.Constant(value=0.2), rules=siglip.KERNELS),
    },
    views=(),
    schedule=schedules.WarmupCosine(peak=8e-6 * 128, warmup_steps=1_600),
    examples=7 * clip.PAIRS,
)
recipe = small.replace(
    {"data.train": pairs(224), "schedule.peak": 8e-7 * 128, "schedule.warmup_steps": 800},
    examples=4_000 * 32_768,
    init={part: From(small) for part in PARTS},
)

# CLIPA-v2: first texts of 8 tokens, nouns before others; then all but 30%, and at last all but 40% of the patches.
h14_small = small.replace(
    {
        "data.train": data.ShortenTexts(source=pairs(84), words=7, keep="syntax", spacy="en_core_web_sm"),
        "data.tokenizer.length": 8,
        "data.batch_size": 65_536,
        "method.towers.image": encoders.ViT.h14(**MEAN, pool_first=True, stem=encoders.PatchStem(patch=14, bias=False)),
        "method.towers.text": replace(text, width=1024, depth=24, heads=16),
        "method.dim": 1024,
        "optimizer.rules": (*siglip.KERNELS, optim.WeightDecay(path="image/registers", factor=0.0)),
    },
    views=(views.ColorJitter("image", **JITTER, hue=0.08, p=0.8), views.Grayscale("image", p=0.2)),
    schedule=schedules.WarmupCosine(peak=8e-6 * 256, warmup_steps=3_200),
    examples=10_000 * IMAGENET,
)
h14_224 = h14_small.replace(
    {"data.train": pairs(224), "data.tokenizer.length": 32, "data.batch_size": 32_768}
    | {"method.towers.image.patch_dropout": 0.3, "schedule.peak": 4e-7 * 128, "schedule.warmup_steps": 800},
    examples=16_000 * 32_768,
    init={part: From(h14_small, stretch_after=int(part == "text")) for part in PARTS},
)
h14 = h14_224.replace(
    {"data.train": pairs(336), "data.batch_size": 16_384, "method.towers.image.patch_dropout": 0.4}
    | {"schedule.peak": 1e-7 * 64, "schedule.warmup_steps": 1_600},
    examples=8_000 * 16_384,
    init={part: From(h14_224) for part in PARTS},
)

# Numbers of FLIP were read in the released code (facebookresearch/flip: configs/, README.md, models_flip.py), where the
# first token of a text, which is no [CLS], gives its features, and the mean over an image has its class token in it.
STEPS = IMAGENET // 65_536  # of an epoch
flip_50 = small.replace(
    {
        "data.train": pairs(224, area=0.5),
        "data.batch_size": 65_536,
        "method.towers.image": encoders.ViT.l14(**MEAN, stem=encoders.PatchStem(), patch_dropout=0.5),
        "method.towers.text": replace(text, width=768, heads=12, pool="cls"),
        "method.dim": 768,
        "method.scale.max": 100.0,
        "optimizer.rules": siglip.KERNELS[:1],
    },
    views=(views.RandomHorizontalFlip("image"),),
    schedule=schedules.WarmupCosine(peak=4e-6 * 256, warmup_steps=20 * STEPS),
    examples=10_000 * STEPS * 65_536,
)
flip_75 = flip_50.replace({"method.towers.image.patch_dropout": 0.75})
flip = flip_50.replace(
    {"method.towers.image.patch_dropout": 0.0, "schedule.peak": 4e-8 * 256},
    examples=100 * STEPS * 65_536,
    init={part: From(flip_50) for part in PARTS},
)

# A quarter of the tokens of a picture, and half of those of a text: words at random, since no noun can be spared here.
tiny_small = clip.tiny.replace(
    {"data.train": data.ShortenTexts(source=replace(common.emoji(), image_size=16), words=5, keep="random")}
    | {"data.tokenizer.length": 7, "views.0.pixels": 1},
    evals=(evals.Retrieval(data=replace(common.emoji("test"), image_size=16)),),
)
tiny = clip.tiny.replace(
    {"schedule.peak": 1e-3, "schedule.warmup_steps": 20},
    examples=200 * 256,
    init={part: From(tiny_small, stretch_after=int(part == "text")) for part in PARTS},
)
