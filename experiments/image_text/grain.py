"""GRAIN: a CLIP that grounds regions of an image in their descriptions (Halbe et al. 2024, arXiv:2412.04429).

Learned queries read the tokens of the image. One gives the image's embedding, which is contrasted with the caption's;
each of the others gives a region's embedding and its box. The boxes match queries with descriptions.

``jaxrep train grain:tiny`` takes about 5 minutes on two cores, after the training of ``clip:tiny`` that it starts from.
Beside captions alone for 400 steps, R@1 of the names of single unseen pictures rises from 0.426 ± 0.028 to
0.511 ± 0.038 (five seeds; docs/recipes.md).
"""

from dataclasses import replace

from experiments import common
from experiments.image_text import clip
from jaxrep import Data, From, Recipe, data, encoders, evals, methods, objectives, optim, schedules

PAIRS, BATCH = 12_423_374, 16 * 128  # Conceptual 12M as it was published; 128 on each of 16 GPUs
BOX = schedules.Constant(value=1.5)  # 1 by the command, over the 2 / 3 of model/box_utils.py

# The numbers, the sum of the losses and the weights of their parts were read in the released code and its command
# (shaunak27/grain-clip: README.md, train.py, model/, clip/custom_models.py), not in the paper's text. As there,
# pictures are squashed and normalized by ImageNet's statistics, regions are matched to descriptions and not the
# reverse, and boxes of the last block only have a loss. There the image tower normalizes queries and keys, the decoder
# reads the class token too, its kernels are Xavier's (here those of each branch's last layer are smaller), dropout acts
# inside attention and MLPs as well, pictures are resized by cubic interpolation, and negatives of a region are those of
# one GPU.
recipe = Recipe(
    data=Data(
        # With each picture and caption, a caption by a language model as .synthetic, and as .regions up to five lines
        # of a box and a description, the best first: point this at shards of your own.
        train=data.SampleCaption(
            source=data.ParseRegions(
                source=data.TarShards(
                    shards="gs://YOUR-BUCKET/cc12m/{00000..01242}.tar",
                    image_size=224,
                    crop=data.HostResize(),  # boxes are shares of the whole picture
                    captions=("synthetic", "regions"),
                ),
                count=5,
            ),
            probabilities={"text": 0.5, "synthetic": 0.5},
        ),
        batch_size=BATCH,
        tokenizer=data.ClipBpe(vocabulary="bpe_simple_vocab_16e6.txt.gz", length=77),
        texts=("text", "region"),
        order=common.lanes(8),
    ),
    method=methods.GroundedDualEncoder(
        image=encoders.ViT.b16(norm_epsilon=1e-6, pixels=encoders.PixelNorm.imagenet()),
        text=encoders.TextTransformer.clip_b(),
        decoder=encoders.QueryDecoder(queries=5, width=512, depth=6, heads=8, dropout=0.1),
        dim=512,
        scale=methods.LogitScale(init=1 / 0.07, max=100),
        l1_cost=5,
        giou_cost=2,
    ),
    objective={
        "captions": objectives.Contrastive("image", "text"),
        "regions": objectives.AllViews(objectives.Contrastive("matched", "region", direction="a_to_b")),
        "l1": objectives.BoxLoss("matched/boxes", kind="l1", weight=BOX),
        "giou": objectives.BoxLoss("matched/boxes", kind="giou", weight=BOX),
    },
    optimizer=optim.AdamW(b2=0.98, eps=1e-8, weight_decay=schedules.Constant(value=0.1)),
    schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=PAIRS // BATCH, end=1e-5),  # one epoch of 35
    epochs=35,
)

# Scenes of one or two pictures, of about the size on which the small CLIP was trained.
TRAIN = data.OpenMojiScenes(image_size=64, min_emojis=1, max_emojis=2, min_size=0.4, max_size=0.6)
# Scenes of test pictures: two of them, and single ones, whose nearest name is asked among all names.
SCENES = replace(TRAIN, part="test", min_emojis=2, count=500)
SINGLE = replace(TRAIN, part="test", max_emojis=1, count=500, seed=1)

tiny = recipe.replace(
    # Several scenes of a batch may show the same thing.
    {
        "optimizer.clip_norm": 1.0,
        "objective.regions.term.duplicates": "ignore",
        "objective.regions.term.ids": ("region_id",),
    },
    data=Data(train=TRAIN, batch_size=64, tokenizer=data.Words(length=24), texts=("text", "region")),
    views=(common.JITTER,),
    method=methods.GroundedDualEncoder(
        image=common.IMAGE,
        text=common.TEXT,
        decoder=encoders.QueryDecoder(queries=4, width=96, depth=2, heads=4),
        dim=96,
    ),
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=30),
    examples=400 * 64,
    # Fresh towers learn nothing in so many steps: scenes are learned after their parts.
    init={part: From(clip.tiny, stretch_after=8) for part in ("image", "text", "text_head")},
    evals=(
        evals.Retrieval(data=SCENES),
        evals.Retrieval(data=SINGLE, name="recognition"),
        evals.Grounding(data=SCENES),
    ),
)
