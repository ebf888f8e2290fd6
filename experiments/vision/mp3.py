"""Position prediction as an effective pretraining strategy (Zhai et al. 2022, arXiv:2207.07611).

Patches have no positions. Half of them, drawn at random, are the context: in all blocks they alone give keys and
values, and every patch asks. A linear map tells of each patch at which of all places it lies.

Of the paper only abstract and introduction could be read: its context shares, patch sizes and schedules could not be
checked. The half is that of an unofficial version's command (arshadshk/Position-Prediction-Pretraining-Pytorch, README,
for CIFAR-100), which says that the authors pretrain by DeiT's configuration. So other numbers are those of
facebookresearch/deit (main.py, README_deit.md) for pictures, without RandAugment and erasing, and in ``speech`` those
of the Keyword Transformer (ARM-software/keyword-transformer: train.sh, README.md, kws_streaming/models/) for frames of
Speech Commands, without distortions of the sound. lucidrains/vit-pytorch has another version, whose context is the same
in all blocks. Crops are resized bilinearly, from pictures squashed to a square of 256 pixels.

``jaxrep train mp3:tiny`` takes about 2 minutes on two cores.
"""

from dataclasses import replace

from experiments import common
from experiments.vision import swav
from jaxrep import Data, Recipe, data, encoders, methods, objectives, optim, schedules, views

BATCH, EPOCH = 4 * 256, 1_281_167 // (4 * 256)  # steps of an epoch of ImageNet
FRAMES, BANDS = 98, 40  # of a second of sound: frames of 30 ms, 10 ms apart, and their coefficients


def places(encoder: encoders.Transformer, count: int, name: str = "image") -> methods.Masked:
    """Return the method that classifies all tokens of a field among ``count`` places."""
    return methods.Masked(name=name, encoder=encoder, reads="context", predicts="all", targets={"places": count})


def crops(size: int, smallest: float, patch: int) -> tuple[views.View, ...]:
    """Return the augmentation of pictures, and the mask of what is not in the context."""
    crop = views.RandomResizedCrop("image", size=size, scale=(smallest, 1.0))
    return crop, views.RandomHorizontalFlip("image"), views.RandomMask("image", patch=patch, share=0.5)


VIT = encoders.ViT.b16(
    pool="mean", positions="none", norm_epsilon=1e-6, stochastic_depth=0.1, pixels=encoders.PixelNorm.imagenet()
)

recipe = Recipe(
    data=Data(train=swav.recipe.data.train, batch_size=BATCH, workers=16, texts=()),
    views=crops(224, 0.08, patch=16),
    method=places(VIT, count=14**2),
    objective={"places": objectives.PatchPosition("places")},
    optimizer=optim.AdamW(weight_decay=schedules.Constant(value=0.05)),
    schedule=schedules.WarmupCosine(peak=5e-4 * BATCH / 512, warmup_steps=5 * EPOCH, end=1e-5),
    epochs=300,
    evals=swav.recipe.evals,
)

# Cepstral coefficients of Speech Commands, as arrays in .npz files of your own.
speech = recipe.replace(
    data=Data(
        train=data.ArrayShards(shards="speech_commands/train-{00..09}.npz", shapes={"frames": (FRAMES, BANDS)}),
        batch_size=512,
        texts=(),
    ),
    views=(views.RandomMask("frames", patch=1, share=0.5),),
    method=places(
        encoders.SeriesTransformer(
            length=FRAMES, width=192, depth=12, heads=3, kernel=1, positions="none", norm_epsilon=1e-6
        ),
        count=FRAMES,
        name="frames",
    ),
    optimizer=optim.AdamW(weight_decay=schedules.Constant(value=0.1)),
    schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=10 * 72),
    epochs=0.0,
    examples=23_438 * 512,
    evals=(),
)

tiny = recipe.replace(
    data=Data(train=common.emoji(), batch_size=128, texts=()),
    views=crops(32, 0.5, patch=4),
    method=places(replace(common.IMAGE, depth=3, positions="none", stem=encoders.PatchStem(patch=4)), count=8**2),
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=30),
    epochs=0.0,
    examples=250 * 128,
    evals=common.probes(),
)
