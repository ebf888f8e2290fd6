"""CLIP: predict which caption goes with which image (Radford et al. 2021, arXiv:2103.00020)."""

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Words
from jaxrep.data.tokenizers.subwords import ClipBpe
from jaxrep.encoders.image.stem import ConvStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import LogitScale
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.optim.optimizers import AdamW
from jaxrep.recipe import Checkpointing, Data, From, Recipe
from jaxrep.schedules import Constant, WarmupCosine
from jaxrep.views.color import ColorJitter
from jaxrep.views.crop import RandomSquareCrop
from jaxrep.views.geometry import RandomTranslate

PAIRS = 400_000_000  # section 2.2


def pairs(size: int) -> TarShards:
    """The 400 million pairs of the paper are not public: point this at shards of your own."""
    return TarShards(shards="gs://YOUR-BUCKET/pairs/{00000..39999}.tar", image_size=size)


recipe = Recipe(
    data=Data(
        train=pairs(256),  # the paper does not give the size before the crop
        batch_size=32_768,  # table 18
        tokenizer=ClipBpe(vocabulary="bpe_simple_vocab_16e6.txt.gz", length=77),  # 49,408 ids
    ),
    views=(RandomSquareCrop("image", size=224),),  # section 2.3: the only augmentation
    method=DualEncoder(
        towers={"image": ViT.b16().as_clip(), "text": TextTransformer.clip_b()},  # table 20, section 2.4
        dim=512,
        scale=LogitScale(init=1 / 0.07, max=100),  # section 2.5, table 18
    ),
    objective={"contrastive": Contrastive("image", "text")},
    optimizer=AdamW(b2=0.98, eps=1e-6, weight_decay=Constant(value=0.2)),  # table 18, of the ViTs
    schedule=WarmupCosine(peak=5e-4, warmup_steps=2_000),  # tables 18 and 20
    examples=32 * PAIRS,  # 32 epochs, table 18
    checkpoint=Checkpointing(every_steps=2_000),
)

vit_b16 = recipe

vit_b32 = recipe.replace({"method.towers.image": ViT.b32().as_clip()})

vit_l14 = recipe.replace(
    {
        "method.towers.image": ViT.l14().as_clip(),
        "method.towers.text": TextTransformer.clip_l(),
        "method.dim": 768,
        "schedule.peak": 4e-4,
    }
)

# One epoch more at a higher resolution (section 3.2); the learning rate is that of table 20.
vit_l14_336 = vit_l14.replace(
    {"data.train": pairs(384), "views.0.size": 336, "schedule.peak": 2e-5},
    examples=PAIRS,
    init={part: From(vit_l14, part) for part in ("image", "text", "image_head", "text_head", "scale")},
)

# The towers of the small recipes; relu is the quickest activation on CPUs.
TINY_IMAGE = ViT(
    width=128,
    depth=4,
    heads=4,
    activation="relu",
    pool="mean",
    positions="sincos",
    stem=ConvStem(channels=(32, 64), patch=3),
)
TINY_TEXT = TextTransformer(width=128, depth=2, heads=4, activation="relu", causal=False, pool="mean")

tiny = recipe.replace(
    {"optimizer.weight_decay": Constant(value=0.1), "optimizer.clip_norm": 1.0},
    data=Data(train=OpenMoji(image_size=48), batch_size=256, tokenizer=Words(length=16)),
    views=(RandomTranslate("image", pixels=3), ColorJitter("image", brightness=0.02, contrast=0.02, saturation=0.02)),
    method=DualEncoder(
        towers={"image": TINY_IMAGE, "text": TINY_TEXT},
        dim=128,
    ),
    # Identical pictures and identical names occur in one batch: they are not negatives of one another.
    objective={"contrastive": Contrastive("image", "text", positives="masked", ids=("image_id", "text_id"))},
    schedule=WarmupCosine(peak=2e-3, warmup_steps=50),
    examples=700 * 256,
    evals=(
        Retrieval(data=OpenMoji(image_size=48, part="test")),
        ZeroShot(data=OpenMoji(image_size=48, part="test"), label="group"),
    ),
    checkpoint=Checkpointing(every_steps=100),
)
