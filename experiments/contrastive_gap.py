"""It's Not a Modality Gap: alignment and uniformity beside CLIP's loss close the gap that the loss makes (Fahim, Murphy
& Fyshe 2024, arXiv:2405.18570).

``recipe`` is CUAXU, with uniformity across the modalities; ``cua`` is without.
"""

from experiments import clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.evals.embedding_space import EmbeddingSpace
from jaxrep.evals.retrieval.composed_queries import ComposedQueries
from jaxrep.methods.heads import LogitScale
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.geometry import Alignment, Uniformity
from jaxrep.optim.optimizers import AdamW
from jaxrep.optim.rules import WeightDecay
from jaxrep.recipe import From, Pretrained
from jaxrep.schedules import Constant, WarmupConstant, WarmupCosine

CUA = {
    "contrastive": Contrastive("image", "text"),
    "uniformity_image": Uniformity("image", weight=Constant(value=0.5)),
    "uniformity_text": Uniformity("text", weight=Constant(value=0.5)),
    "alignment": Alignment("image", "text"),
}
FIXED = LogitScale(init=100.0, learned=False)  # a temperature of 0.01

# The numbers are those of the authors' released configuration, the dimension that of its sweep; they could not be
# checked against the paper's text. As there, the towers are pretrained and the projections are new.
recipe = clip.vit_b32.replace(
    {
        # The pictures of MS COCO, with the second caption of each: point this at shards of your own.
        "data.train": TarShards(shards="gs://YOUR-BUCKET/coco-train2017/{00000..00118}.tar", image_size=224),
        "data.batch_size": 64,
        "method.scale": FIXED,
    },
    views=(),
    objective={**CUA, "uniformity_across": Uniformity("image", "text")},
    optimizer=AdamW(b2=0.99, weight_decay=Constant(value=0.1), rules=(WeightDecay(path="**", factor=1.0),)),
    schedule=WarmupConstant(peak=1e-6),
    epochs=9,
    init={part: Pretrained("clip-vit-base-patch32") for part in ("image", "text")},
)

cua = recipe.replace(objective=CUA)

# Identical pictures and identical names need not be apart.
tiny = clip.tiny.replace(
    {"method.scale": FIXED},
    objective={
        "contrastive": clip.tiny.objective["contrastive"],
        "uniformity_image": Uniformity("image", ids=("image_id",), weight=Constant(value=0.5)),
        "uniformity_text": Uniformity("text", ids=("text_id",), weight=Constant(value=0.5)),
        "alignment": Alignment("image", "text"),
        "uniformity_across": Uniformity("image", "text", ids=("image_id", "text_id")),
    },
    schedule=WarmupCosine(peak=5e-4, warmup_steps=30),
    examples=300 * 256,
    init={part: From(clip.tiny) for part in ("image", "text", "image_head", "text_head")},
    seed=1,
    evals=(
        *clip.tiny.evals,
        EmbeddingSpace(data=OpenMoji(image_size=48, part="test")),
        ComposedQueries(data=OpenMoji(image_size=48, part="test")),  # image arithmetic
    ),
)
