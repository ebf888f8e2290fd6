"""SimMIM: a simple framework for masked image modeling (Xie et al. 2022, arXiv:2111.09886).

The encoder reads all patches, with a mask token in place of 0.6 of units of 32 pixels, and one linear map predicts the
hidden pixels. Numbers are those of the released code for its vision transformer (microsoft/SimMIM:
configs/vit_base__800ep, config.py, data/data_simmim.py, models/simmim.py, models/vision_transformer.py, optimizer.py,
main_simmim.py); the batch is that of 16 GPUs in README.md's commands for Swin; the paper's own tables could not be
checked. ``fine_tune`` trains a classifier on the encoder; its mixup, cutmix, erasing and RandAugment are not here.

Unlike there, fine-tuning keeps one bias of relative positions, where the code copies it to each block; kernels begin
normal, and their scale does not fall from block to block; crops are resized bilinearly, from pictures squashed to a
square of 256 pixels. The presets with Swin are not here.

``jaxrep train simmim:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import mae, mixed_barlow, swav
from jaxrep import Data, From, Recipe, encoders, evals, methods, objectives, optim, schedules, views

BATCH, EPOCH = 128 * 16, 1_281_167 // (128 * 16)  # steps of an epoch of ImageNet
PER_512 = BATCH / 512
DECAY = schedules.Constant(value=0.05)


def encoder(start: encoders.ViT) -> encoders.ViT:
    """Return an encoder with a bias of relative positions, a mask token, and a class token beside its feature."""
    return replace(
        start,
        pool="mean",
        class_token=True,
        positions="relative",
        mask_token=True,
        key_bias=False,
        layer_scale=0.1,
        stochastic_depth=0.1,
    )


def method(image: encoders.ViT, patch: int) -> methods.Masked:
    """Return an encoder of all patches whose tokens predict the pixels of patches."""
    return methods.Masked(encoder=image, reads="all", targets={"pixels": 3 * patch**2})


def reconstruct(image: encoders.ViT, patch: int) -> dict[str, objectives.Term]:
    """Return the mean absolute difference over hidden pixels, normalized by channel."""
    return {"pixels": objectives.Reconstruction("pixels", patch=patch, kind="l1", pixels=image.pixels)}


def tuned(image: encoders.ViT) -> encoders.ViT:
    """Return the encoder of a classifier of the mean of the patches, which the last norm follows."""
    return replace(image, mask_token=False, pool_first=True)


VIT = encoder(encoders.ViT.b16(norm_epsilon=1e-6, pixels=encoders.PixelNorm.imagenet()))

recipe = Recipe(
    data=Data(train=mixed_barlow.WHOLE, batch_size=BATCH, workers=16, texts=()),
    views=(*mae.crops(224, 0.67), views.RandomMask("image", patch=16, share=0.6, unit=2)),
    method=method(VIT, 16),
    objective=reconstruct(VIT, 16),
    optimizer=optim.AdamW(
        weight_decay=DECAY,
        clip_norm=5.0,
        rules=(
            optim.WeightDecay(path="image/mask_token", factor=1.0),
            optim.LearningRateSchedule(path="**", factor=schedules.Ramp(start=1.0, end=0.1, after=700 * EPOCH)),
        ),
    ),
    schedule=schedules.WarmupConstant(peak=1e-4 * PER_512, warmup_steps=10 * EPOCH, start=5e-7 * PER_512),
    epochs=800,
    evals=swav.recipe.evals,
)

# Parts that follow the blocks keep their rate, and so does the bias that all blocks share (optimizer.py).
fine_tune = recipe.replace(
    views=mae.crops(224, 0.08),
    method=methods.Classifier(encoder=tuned(VIT), classes=1_000),
    objective={"classes": objectives.CrossEntropy("image/projected", label_smoothing=0.1)},
    optimizer=optim.AdamW(
        weight_decay=DECAY,
        clip_norm=5.0,
        rules=(optim.LayerDecay(path="image", factor=0.65, after=("norm", "relative")),),
    ),
    schedule=schedules.WarmupCosine(
        peak=1.25e-3 * PER_512, warmup_steps=20 * EPOCH, start=2.5e-7 * PER_512, end=2.5e-7 * PER_512
    ),
    epochs=100,
    evals=(evals.Classification(data=mixed_barlow.imagenet("val")),),
    init={"image": From(recipe)},
)

# Units of 2 x 2 patches of 4 pixels.
TINY = encoder(replace(common.IMAGE, stem=encoders.PatchStem(patch=4)))

tiny = recipe.replace(
    data=Data(train=common.emoji(), batch_size=128, texts=()),
    views=(*mae.crops(32, 0.67), views.RandomMask("image", patch=4, share=0.6, unit=2)),
    method=method(TINY, 4),
    objective=reconstruct(TINY, 4),
    optimizer=optim.AdamW(weight_decay=DECAY, clip_norm=5.0),
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=30),
    epochs=0.0,
    examples=250 * 128,
    evals=common.probes(),
)
tiny_fine_tune = mae.tiny_fine_tune.replace(
    {"method.encoder": tuned(TINY), "optimizer": fine_tune.optimizer}, init={"image": From(tiny)}
)
