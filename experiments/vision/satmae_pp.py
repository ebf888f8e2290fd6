"""SatMAE++: transformers pre-training for multi-spectral satellite imagery (Noman et al. 2024, arXiv:2403.05419).

A masked autoencoder of ten bands of Sentinel-2 in three groups, each with tokens of its own, which also predicts the
picture at twice and four times the size. Numbers are those of the released code (techmn/satmae_pp: README.md,
main_pretrain.py, main_finetune.py, engine_pretrain.py, util/datasets.py, models_mae.py, models_mae_group_channels.py);
the paper's own tables could not be checked. fMoW-Sentinel has as many pictures as its README says; those of fMoW-RGB
could not be counted. ``rgb`` has two scales. ``fine_tune`` trains a classifier on the encoder, without RandAugment,
erasing, mixup and cutmix.

Unlike there, tokens of a group predict the bands of this group: there predictions come in the order of the groups and
targets in that of the bands, so that some tokens predict bands of other groups. As in ``mae``, the class token does not
enter the decoder, features are the mean of the tokens, warm-ups rise at the first step, kernels of transformers begin
normal, and crops are resized bilinearly, here from pictures squashed to squares.

``jaxrep train satmae_pp:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace
from itertools import pairwise

from experiments.vision import mae
from jaxrep import Data, From, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))  # bands of 10 meters, of the red edge, and of the short-wave infrared
BATCH, EPOCH = 16 * 16 * 8, 712_874 // (16 * 16 * 8)  # 16 pictures on each of 8 GPUs, 16 times a step
BATCH_RGB, EPOCH_RGB = 64 * 32 * 8, 363_571 // (64 * 32 * 8)
BATCH_TUNED, EPOCH_TUNED = 8 * 16 * 8, 712_874 // (8 * 16 * 8)


def raw(channels: int) -> encoders.PixelNorm:
    """Return no normalization: the pixels from 0 to 1 as they are."""
    return encoders.PixelNorm(mean=(0.0,) * channels, std=(1.0,) * channels)


def crops(size: int, smallest: float, doublings: int) -> tuple[views.View, ...]:
    """Return the augmentation, of pictures that are halved once or twice: ``image`` is the smallest of them."""
    names = ("image", "image_2x", "image_4x")[: doublings + 1]
    shrink = [
        views.Resize(large, out=small, size=size * 2**doubling, antialias=False)
        for doubling, (small, large) in enumerate(pairwise(names))
    ]
    largest = mae.crops(size * 2**doublings, smallest)
    return (*largest, views.CopyField("image", out=names[-1]), *reversed(shrink))


def method(image: encoders.ViT, decoder: encoders.TokenDecoder, upsampler: encoders.Upsampler) -> methods.Masked:
    """Return an encoder of the shown tokens, with what predicts pictures of all of them."""
    return methods.Masked(encoder=image, decoder=decoder, upsampler=upsampler, reads="shown", targets={})


def sentinel(part: str, size: int) -> data.ArrayShards:
    """Return fMoW-Sentinel as arrays of your own: ten bands, with 0 and 1 at 2 deviations around their means."""
    shapes = {"image": (size, size, 10), "label": ()}
    return data.ArrayShards(shards=f"fmow-sentinel/{part}-*.npz", shapes=shapes, kinds={"label": "int32"})


VIT = encoders.ViT.l14(
    stem=encoders.BandsStem(groups=GROUPS, patch=8),
    **{**mae.LOOK, "pixels": raw(10)},
    sine_widths=(256, 384, 384),  # of the group, and of row and column of a token
)
DECODER = encoders.TokenDecoder(width=512, depth=8, heads=16, sine_widths=(128, 192, 192))
MASK = views.RandomMask("image", patch=8, share=0.75, groups=3)

recipe = Recipe(
    data=Data(train=sentinel("train", 384), batch_size=BATCH, workers=16, texts=()),
    views=(*crops(96, 0.6, 2), MASK),
    method=method(VIT, DECODER, encoders.Upsampler()),
    objective={"pictures": objectives.MultiScaleReconstruction(patch=8, groups=GROUPS, share=0.6)},
    optimizer=mae.recipe.optimizer,
    schedule=schedules.WarmupCosine(peak=1e-4 * BATCH / 256, warmup_steps=20 * EPOCH),
    epochs=50,
    microbatch_size=16 * 8,
)

RGB = encoders.PixelNorm(mean=(0.4182, 0.4215, 0.3991), std=(0.2877, 0.2754, 0.2764))
rgb = recipe.replace(
    data=Data(
        train=data.ImageFolder(path="fmow-rgb/train", image_size=512, crop=data.HostResize(), classes=62),
        batch_size=BATCH_RGB,
        workers=16,
        texts=(),
    ),
    views=(*crops(224, 0.2, 1), views.RandomMask("image", patch=16, share=0.75)),
    method=method(
        encoders.ViT.l14(stem=encoders.PatchStem(patch=16), **{**mae.LOOK, "pixels": RGB}),
        replace(DECODER, sine_widths=()),
        encoders.Upsampler(doublings=1),
    ),
    objective={"pictures": objectives.MultiScaleReconstruction(larger=("image_2x",), patch=16, share=0.6, pixels=RGB)},
    optimizer=replace(mae.recipe.optimizer, weight_decay=schedules.Constant(value=0.3)),
    schedule=schedules.WarmupCosine(peak=7e-4, warmup_steps=20 * EPOCH_RGB),
    epochs=800,
    microbatch_size=64 * 8,
)

fine_tune = recipe.replace(
    data=replace(recipe.data, batch_size=BATCH_TUNED),
    views=mae.crops(96, 0.3),
    method=mae.classifier(VIT, 62, drop=0.2),
    objective=mae.fine_tune.objective,
    optimizer=optim.AdamW(weight_decay=mae.DECAY, rules=(optim.LayerDecay(path="image", factor=0.75),)),
    schedule=schedules.WarmupCosine(peak=2e-4 * BATCH_TUNED / 256, warmup_steps=5 * EPOCH_TUNED, end=1e-6),
    epochs=30,
    evals=(evals.Classification(data=sentinel("val", 96)),),
    init={"image": From(recipe)},
)

# Maps of 24, 48 and 96 pixels; patches of 4 pixels are 3 x 36 tokens, of which the encoder reads 27.
TINY = replace(mae.TINY, stem=encoders.BandsStem(groups=GROUPS, patch=4), pixels=raw(10))
TRAIN, TEST = data.Landcover(image_size=24), data.Landcover(image_size=24, part="test", count=500)

tiny = recipe.replace(
    data=Data(train=replace(TRAIN, image_size=96), batch_size=32, texts=()),
    views=(*crops(24, 0.6, 2), replace(MASK, patch=4)),
    method=method(
        TINY, encoders.TokenDecoder(width=64, depth=2, heads=4, activation="relu"), encoders.Upsampler(ratio=1)
    ),
    objective={"pictures": objectives.MultiScaleReconstruction(patch=4, groups=GROUPS)},
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=20),
    epochs=0.0,
    examples=120 * 32,
    microbatch_size=0,
    evals=(
        evals.Segmentation(train=TRAIN, data=TEST, groups=3, max_iterations=50),
        evals.LinearProbe(train=TRAIN, data=TEST, label="label", max_iterations=20),
    ),
)
