"""Matryoshka Representation Learning: good at every prefix (Kusupati et al. 2022, arXiv:2205.13147).

``recipe`` is the paper's ALIGN-MRL; ``imagenet`` its ResNet-50 with a classifier per width, ``imagenet_e`` with a
shared one (MRL-E).

``jaxrep train mrl:tiny`` takes about 6 minutes on two cores. Its effect was not measured.
"""

from experiments import common
from experiments.image_text import align, clip
from jaxrep import Data, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

WIDTHS = (12, 24, 48, 96, 192, 384, 768)  # section 4.1, of ViT-B/16 and BERT-base
RESNET_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # section 4.1
TINY_WIDTHS = (8, 16, 32, 64, 128)

recipe = align.recipe.replace(
    {
        "data.batch_size": 4_096,  # appendix C: 64 per TPU on an 8 x 8 pod
        "method": methods.DualEncoder(
            towers={"image": encoders.ViT.b16(), "text": encoders.Bert.base()},
            dim=768,
            scale=methods.LogitScale(init=1.0, max=1_000.0),
        ),
        "views.0.size": 288,  # ALIGN's 289 px are no multiple of the patch of 16
    },
    # Equation 1 with c_m = 1.
    objective={"matryoshka": objectives.Matryoshka(term=align.recipe.objective["contrastive"], dims=WIDTHS)},
    optimizer=optim.Adafactor(),  # appendix C
    schedule=schedules.WarmupLinear(peak=1e-3, warmup_steps=10_000),  # appendix C; the warm-up is ALIGN's
    examples=1_000_000 * 4_096,
)

tiny = clip.tiny.replace(
    objective={
        "matryoshka": objectives.Matryoshka(term=clip.tiny.objective["contrastive"], dims=(*TINY_WIDTHS[:-1], 96))
    },
)

# Widths, equal weights of the losses, label smoothing, the schedule's form and decayed biases of the classifiers were
# read in the released code (RAIVNLab/MRL, MRL.py and train/train_imagenet.py), weight decay, epochs and sizes in the
# configuration that it runs (libffcv/ffcv-imagenet, rn50_configs/rn50_40_epochs.yaml). Its README has a rate of 0.425
# in place of 0.475. There pictures grow from 160 to 192 pixels from epoch 29 to 34 and are resized by cubic
# interpolation, and norms of shortcuts are decayed too. An evaluation there takes the mean over a picture and its
# mirror image; here it reads the picture.
imagenet = Recipe(
    data=Data(
        train=data.ImageFolder(
            path="imagenet/train", image_size=160, crop=data.HostRandomResizedCrop(scale=(0.08, 1.0)), classes=1_000
        ),
        batch_size=512,
        texts=(),
    ),
    views=(views.RandomHorizontalFlip("image"),),
    method=methods.Classifier(encoder=encoders.ResNet.resnet50(blur=True), classes=1_000, dims=RESNET_WIDTHS),
    objective={f"d{d}": objectives.CrossEntropy("image", f"classes/{d}", label_smoothing=0.1) for d in RESNET_WIDTHS},
    optimizer=optim.Sgd(
        momentum=0.9,
        weight_decay=schedules.Constant(value=1e-4),  # appendix C
        rules=(optim.WeightDecay(path="classes*/bias", factor=1.0),),
    ),
    schedule=schedules.WarmupLinear(peak=0.475, warmup_steps=5_005),  # appendix C; two epochs of rise
    epochs=40,
    evals=(
        evals.Classification(
            data=data.ImageFolder(
                path="imagenet/val", image_size=256, crop=data.HostCenterCrop(side=224 / 256), classes=1_000
            ),
            dims=RESNET_WIDTHS,
        ),
    ),
)

imagenet_e = imagenet.replace(
    {"method.dims": (), "evals.0.dims": ()},
    objective={
        "matryoshka": objectives.Matryoshka(
            term=objectives.CrossEntropy("image", "classes", label_smoothing=0.1), dims=RESNET_WIDTHS
        )
    },
)

# The split is random, since the compositional one holds out pictures of one group.
tiny_classifier = imagenet.replace(
    {"optimizer.clip_norm": 1.0, "optimizer.rules": ()},
    data=Data(train=common.emoji(split="random"), batch_size=256, texts=()),
    views=(common.SHIFT,),
    method=methods.Classifier(
        encoder=encoders.ResNet(depths=(1, 1, 1), width=32, bottleneck=False, stem="small"),
        classes=10,
        dims=TINY_WIDTHS,
    ),
    objective={f"d{d}": objectives.CrossEntropy("image", f"classes/{d}", label="group") for d in TINY_WIDTHS},
    schedule=schedules.WarmupLinear(peak=0.1, warmup_steps=50),
    examples=300 * 256,
    evals=(evals.Classification(data=common.emoji("test", split="random"), label="group", dims=TINY_WIDTHS),),
)
