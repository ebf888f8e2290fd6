"""Context autoencoder for self-supervised representation learning (Chen et al. 2022, arXiv:2202.03026).

The encoder reads half of the patches. From their features a regressor predicts those of the others, and a decoder makes
the targets of the regressed features alone. Two terms: the targets, and twice the mean square between regressed
features and what the encoder itself makes of the hidden patches alone. Numbers are those of the released code
(Atten4Vis/CAE: scripts/cae_base_800e.sh and, for ``large``, cae_large_1600e.sh; tools/run_pretraining.py,
models/modeling_cae.py, furnace/optim_factory.py); the paper's own tables were not read. As there, the regressor
normalizes the sum before its MLP, which adds to that.

The targets of the paper are 8,192 tokens of DALL-E's d-VAE, which no package has; here they are pixels, normalized by
patch. Unlike in the released code, features of the hidden patches are without stochastic depth, and of the encoder
(there of a copy, which each step overwrites); patches that rectangles leave to be hidden are drawn one by one; kernels
begin normal; crops are resized bilinearly, from pictures squashed to a square of 256 pixels.

``jaxrep train cae:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import swav
from jaxrep import Data, Recipe, encoders, methods, objectives, optim, schedules, views

BATCH, EPOCH = 8 * 4 * 64, 1_281_167 // (8 * 4 * 64)  # steps of an epoch of ImageNet
LOOK: dict = dict(positions="sincos", sine_endpoint=False, pixels=encoders.PixelNorm.imagenet())


def block(scale: float) -> dict:
    """Return what the blocks of all three transformers share."""
    return dict(norm_epsilon=1e-6, key_bias=False, layer_scale=scale, stochastic_depth=0.1)


def hide(patch: int, smallest: int) -> tuple[views.View, ...]:
    """Return the augmentation, and the mask of half of the patches, in rectangles of ``smallest`` patches or more."""
    mask = views.BlockMask("image", patch=patch, p=1.0, share=(0.5, 0.5), smallest=smallest, exact=True)
    return views.RandomHorizontalFlip("image"), mask


def autoencoder(encoder: encoders.ViT, patch: int, **decoders) -> methods.ContextAutoencoder:
    """Return the method. ``decoders``: fields of regressor and decoder, which are as wide as the encoder."""
    size: dict = dict(width=encoder.width, heads=encoder.heads, **decoders)
    decoder = encoders.TokenDecoder(**size, mask_token=False, project=False)
    regressor = encoders.ContextRegressor(**size)
    return methods.ContextAutoencoder(
        encoder=encoder, regressor=regressor, decoder=decoder, targets={"pixels": 3 * patch**2}
    )


def objective(encoder: encoders.ViT, patch: int) -> dict[str, objectives.Term]:
    """Return both terms."""
    twice = schedules.Constant(value=2.0)
    return {
        "pixels": objectives.Reconstruction("pixels", patch=patch, pixels=encoder.pixels, patch_norm=True),
        "features": objectives.MeanSquare("image/regressed", "image/hidden", weight=twice),
    }


VIT = encoders.ViT.b16(**LOOK, **block(0.1))
LARGE = encoders.ViT.l14(stem=encoders.PatchStem(patch=16), **LOOK, **block(1e-5))

recipe = Recipe(
    data=Data(train=swav.recipe.data.train, batch_size=BATCH, workers=16, texts=()),
    views=(views.RandomResizedCrop("image", size=224, scale=(0.08, 1.0)), *hide(16, smallest=16)),
    method=autoencoder(VIT, 16, depth=4, **block(0.1)),
    objective=objective(VIT, 16),
    # Learned tokens have the decay of matrices.
    optimizer=optim.AdamW(
        weight_decay=schedules.Constant(value=0.05),
        clip_norm=3.0,
        rules=tuple(optim.WeightDecay(path=path, factor=1.0) for path in ("image/class_token", "regressor/query")),
    ),
    schedule=schedules.WarmupCosine(peak=1.5e-3, warmup_steps=20 * EPOCH, end=1e-5),
    epochs=800,
    evals=swav.recipe.evals,
)
large = recipe.replace(
    {"method": autoencoder(LARGE, 16, depth=4, **block(1e-5)), "schedule.warmup_steps": 40 * EPOCH}, epochs=1_600
)

# Patches of 4 pixels are 64 tokens, of which the encoder reads 32. At twice the rate, and without the factors on
# branches, features lost nearly all of their variance within 50 steps.
TINY = replace(common.IMAGE, depth=3, layer_scale=0.1, stem=encoders.PatchStem(patch=4), sine_endpoint=False)

tiny = recipe.replace(
    data=Data(train=common.emoji(), batch_size=64, texts=()),
    views=(views.RandomResizedCrop("image", size=32, scale=(0.5, 1.0)), *hide(4, smallest=4)),
    method=autoencoder(TINY, 4, depth=2, activation="relu", layer_scale=0.1),
    objective=objective(TINY, 4),
    optimizer=optim.AdamW(weight_decay=schedules.Constant(value=0.05), clip_norm=3.0),
    schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=30),
    epochs=0.0,
    examples=250 * 64,
    evals=common.probes(),
)
