"""GRAIN: a CLIP that learns where in an image its parts lie and what each is called (Halbe et al. 2024,
arXiv:2412.04429).

Learned queries read the tokens of the image: one gives the image's embedding, which meets the caption's, and each of the
others a region's, with its box. The boxes decide which query is of which description.
"""

from dataclasses import replace

from experiments import clip
from jaxrep.data.openmoji.scenes import OpenMojiScenes
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Words
from jaxrep.data.tokenizers.subwords import ClipBpe
from jaxrep.data.transforms.captions import SampleCaption
from jaxrep.data.transforms.regions import Regions
from jaxrep.encoders.decoders.query_decoder import QueryDecoder
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.evals.dense.grounding import Grounding
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.methods.dual_encoder.grounded import GroundedDualEncoder
from jaxrep.methods.heads import LogitScale
from jaxrep.objectives.boxes import BoxLoss
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.views import AllViews
from jaxrep.optim.optimizers import AdamW
from jaxrep.recipe import Data, From, Recipe
from jaxrep.schedules import Constant, WarmupCosine
from jaxrep.views.color import ColorJitter

PAIRS, BATCH = 12_423_374, 16 * 128  # Conceptual 12M as it was published; 128 on each of 16 GPUs
BOX = Constant(value=1.5)

# The sum of the losses for image and caption, boxes, and regions and descriptions is the paper's; all numbers are those
# of the released code and its command, and could not be checked against the paper's text. As in the code, regions look
# for descriptions and not the reverse, and boxes of the last block alone have a loss. There the image tower normalizes
# queries and keys, the decoder reads the class token too, dropout acts inside attention and MLPs as well, and
# negatives of a region are those of one GPU.
recipe = Recipe(
    data=Data(
        # Beside picture and caption a caption by a language model, as .synthetic, and as .regions up to five lines of a
        # box and a description, the best first: point this at shards of your own.
        train=SampleCaption(
            source=Regions(
                source=TarShards(
                    shards="gs://YOUR-BUCKET/cc12m/{00000..01242}.tar",
                    image_size=224,
                    captions=("synthetic", "regions"),
                ),
                count=5,
            ),
            probabilities={"text": 0.5, "synthetic": 0.5},
        ),
        batch_size=BATCH,
        tokenizer=ClipBpe(vocabulary="bpe_simple_vocab_16e6.txt.gz", length=77),
        texts=("text", "region"),
    ),
    method=GroundedDualEncoder(
        image=ViT.b16(norm_epsilon=1e-6),
        text=TextTransformer.clip_b(),
        decoder=QueryDecoder(queries=5, width=512, depth=6, heads=8, dropout=0.1),
        dim=512,
        scale=LogitScale(init=1 / 0.07, max=100),
        l1_cost=5,
        giou_cost=2,
    ),
    objective={
        "captions": Contrastive("image", "text"),
        "regions": AllViews(Contrastive("matched", "region", direction="a_to_b")),
        "l1": BoxLoss("matched/boxes", kind="l1", weight=BOX),
        "giou": BoxLoss("matched/boxes", kind="giou", weight=BOX),
    },
    optimizer=AdamW(b2=0.98, eps=1e-8, weight_decay=Constant(value=0.1)),
    schedule=WarmupCosine(peak=1e-3, warmup_steps=PAIRS // BATCH, end=1e-5),  # one epoch of 35
    epochs=35,
)

# Scenes of one or two pictures, of about the size at which the small CLIP has seen them.
TRAIN = OpenMojiScenes(fewest=1, most=2, smallest=0.4, largest=0.6)
# Of test pictures: two of them, and single ones: of each, which of all names is nearest.
SCENES = replace(TRAIN, part="test", fewest=2, count=500)
SINGLE = replace(TRAIN, part="test", most=1, count=500, seed=1)

tiny = recipe.replace(
    {"optimizer.clip_norm": 1.0},
    data=Data(
        train=TRAIN,
        batch_size=64,
        tokenizer=Words(length=24),
        texts=("text", "region"),
    ),
    views=(ColorJitter("image", brightness=0.02, contrast=0.02, saturation=0.02),),
    method=GroundedDualEncoder(
        image=clip.TINY_IMAGE,
        text=clip.TINY_TEXT,
        decoder=QueryDecoder(queries=4, width=128, depth=2, heads=4),
        dim=128,
    ),
    # Several scenes of a batch may show the same thing.
    objective={
        **recipe.objective,
        "regions": AllViews(
            Contrastive("matched", "region", direction="a_to_b", positives="masked", ids=("region_id",))
        ),
    },
    schedule=WarmupCosine(peak=2e-3, warmup_steps=30),
    examples=400 * 64,
    # From fresh towers as many steps stay where they begin: scenes are learned after their parts.
    init={part: From(clip.tiny, stretch_after=8) for part in ("image", "text", "text_head")},
    evals=(Retrieval(data=SCENES), Retrieval(data=SINGLE, name="recognition"), Grounding(data=SCENES)),
)
