"""MAE: masked autoencoders are scalable vision learners (He et al. 2022, arXiv:2111.06377).

An encoder reads a random quarter of the patches, and a smaller decoder predicts the pixels of the others, each patch
normalized by itself. Numbers are those of the released code (facebookresearch/mae: PRETRAIN.md, FINETUNE.md,
main_pretrain.py, main_finetune.py, models_mae.py, models_vit.py); the paper's own tables could not be checked.
``fine_tune`` trains a classifier on the encoder; its mixup, cutmix, random erasing and RandAugment are not here.

Unlike there, the class token does not enter the decoder, and features are the mean of the patches, which the released
code takes in fine-tuning alone; fine-tuning keeps the positions fixed; warm-ups rise at the first step already; kernels
and the classifier begin normal; crops are resized bilinearly, from pictures squashed to a square of 256 pixels.

``jaxrep train mae:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import mixed_barlow, swav
from jaxrep import Data, From, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

BATCH, EPOCH = 64 * 8 * 8, 1_281_167 // (64 * 8 * 8)  # steps of an epoch of ImageNet, of 64 pictures on each of 64 GPUs
BATCH_TUNED, EPOCH_TUNED = 32 * 4 * 8, 1_281_167 // (32 * 4 * 8)
DECAY = schedules.Constant(value=0.05)
IMAGENET = encoders.PixelNorm.imagenet()
LOOK = dict(  # of all encoders
    pool="mean", class_token=True, positions="sincos", sine_endpoint=False, norm_epsilon=1e-6, pixels=IMAGENET
)


def crops(size: int, smallest: float) -> tuple[views.View, ...]:
    """Return the augmentation: crops of areas above a share of the picture, and flips."""
    crop = views.RandomResizedCrop("image", size=size, scale=(smallest, 1.0))
    return crop, views.RandomHorizontalFlip("image")


def autoencoder(encoder: encoders.ViT, decoder: encoders.TokenDecoder, patch: int) -> methods.Masked:
    """Return an encoder that reads what is shown, with a decoder that predicts the pixels of patches."""
    return methods.Masked(encoder=encoder, decoder=decoder, reads="shown", targets={"pixels": 3 * patch**2})


def reconstruct(encoder: encoders.ViT, patch: int) -> dict[str, objectives.Term]:
    """Return the mean square over hidden patches, of pixels normalized by channel and then by patch."""
    return {"pixels": objectives.Reconstruction("pixels", patch=patch, pixels=encoder.pixels, patch_norm=True)}


def classifier(encoder: encoders.ViT, classes: int, drop: float) -> methods.Classifier:
    """Return a classifier of the mean of the patches, which the last norm follows."""
    return methods.Classifier(encoder=replace(encoder, pool_first=True, stochastic_depth=drop), classes=classes)


VIT, DECODER = encoders.ViT.b16(**LOOK), encoders.TokenDecoder(width=512, depth=8, heads=16)

recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=BATCH, workers=16, texts=()),
    views=(*crops(224, 0.2), views.RandomMask("image", patch=16, share=0.75)),
    method=autoencoder(VIT, DECODER, 16),
    objective=reconstruct(VIT, 16),
    optimizer=optim.AdamW(
        b2=0.95,
        weight_decay=DECAY,
        rules=tuple(optim.WeightDecay(path=path, factor=1.0) for path in ("image/class_token", "decoder/mask_token")),
    ),
    schedule=schedules.WarmupCosine(peak=1.5e-4 * BATCH / 256, warmup_steps=40 * EPOCH),
    epochs=800,
    evals=swav.recipe.evals,
)
large = recipe.replace({"method.encoder": encoders.ViT.l14(stem=encoders.PatchStem(patch=16), **LOOK)})
huge = recipe.replace(
    {
        "method": autoencoder(encoders.ViT.h14(**LOOK), DECODER, 14),
        "views.2.patch": 14,
        "objective.pixels.patch": 14,
    }
)

fine_tune = recipe.replace(
    data=replace(recipe.data, batch_size=BATCH_TUNED),
    views=crops(224, 0.08),
    method=classifier(VIT, 1_000, drop=0.1),
    objective={"classes": objectives.CrossEntropy("image/projected", label_smoothing=0.1)},
    optimizer=optim.AdamW(weight_decay=DECAY, rules=(optim.LayerDecay(path="image", factor=0.65),)),
    schedule=schedules.WarmupCosine(peak=5e-4 * BATCH_TUNED / 256, warmup_steps=5 * EPOCH_TUNED, end=1e-6),
    epochs=100,
    evals=(evals.Classification(data=mixed_barlow.imagenet("val")),),
    init={"image": From(recipe)},
)

# Patches of 4 pixels are 64 tokens, of which the encoder reads 16.
TINY = replace(common.IMAGE, depth=3, stem=encoders.PatchStem(patch=4), sine_endpoint=False, class_token=True)
TENTH = data.Fraction(source=common.half(False), share=0.1)

tiny = recipe.replace(
    data=Data(train=common.emoji(), batch_size=128, texts=()),
    views=(*crops(32, 0.5), views.RandomMask("image", patch=4, share=0.75)),
    method=autoencoder(TINY, encoders.TokenDecoder(width=64, depth=2, heads=4, activation="relu"), 4),
    objective=reconstruct(TINY, 4),
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=30),
    epochs=0.0,
    examples=400 * 128,
    evals=common.probes(),
)
tiny_fine_tune = fine_tune.replace(
    data=Data(train=TENTH, batch_size=64, texts=()),
    views=crops(32, 0.5),
    method=classifier(TINY, 10, drop=0.0),
    objective={"classes": objectives.CrossEntropy("image/projected", label="group", label_smoothing=0.1)},
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=10),
    epochs=0.0,
    examples=100 * 64,
    evals=(evals.Classification(data=common.half(True), label="group"),),
    init={"image": From(tiny)},
)
