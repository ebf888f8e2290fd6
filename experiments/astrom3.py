"""AstroM3: light curve, spectrum and metadata of a star in one space (Rizhko & Bloom 2024, arXiv:2411.08842).

The numbers are those of the released configuration of pretraining (configs/config-clip-full.yaml), which a search had
found, to three digits. Its learning rate falls where the validation loss stands still; here it falls along a cosine.
Its tower of light curves has dropout of 0.1 after the embedding, and dropout of attention and inside the MLPs too; here
each branch's output has it.
"""

from typing import Literal

from experiments import clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.arrays import ArrayShards
from jaxrep.data.transforms.modalities import DropModalities, SplitCaptions
from jaxrep.encoders.series.series import Perceptron, SeriesConvolutions, SeriesTransformer
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.optim.optimizers import Adam
from jaxrep.optim.rules import WeightDecay
from jaxrep.recipe import Data, Recipe
from jaxrep.schedules import Constant, WarmupCosine

STARS, BATCH, EPOCHS, WARMUP = 17_045, 512, 100, 10  # about 17,000 of the 21,440 stars train
SCALE = LogitScale(init=100.0, min=1.0, max=100.0)
SHAPES = {"photometry": (200, 9), "photometry/valid": (200,), "spectrum": (2_575, 3), "metadata": (34,)}


def pairs(a: str, b: str, c: str, **changes) -> dict[str, Contrastive]:
    """Every two of three modalities find each other, in both directions, at a temperature of their own."""
    scales = {(a, b): "scale", (b, c): "scale_second", (c, a): "scale_third"}
    return {f"{x}-{y}": Contrastive(x, y, scale=scale, direction="sum", **changes) for (x, y), scale in scales.items()}


recipe = Recipe(
    data=Data(
        # ASAS-SN's light curves, LAMOST's spectra and the catalog's columns, as arrays in .npz files of your own.
        train=ArrayShards(shards="astrom3/train-{00..16}.npz", shapes=SHAPES, kinds={"photometry/valid": "bool"}),
        batch_size=BATCH,
        texts=(),
    ),
    method=DualEncoder(
        towers={
            # The authors' attention is Informer's sparse one; here it is full, and padding is not attended to.
            "photometry": SeriesTransformer(length=200, width=128, depth=8, heads=4, pool="flatten", dropout=0.245),
            "spectrum": SeriesConvolutions(length=2_575, channels=(64, 64, 32, 32), dropout=0.339),
            "metadata": Perceptron(widths=(512, 512), dropout=0.160),
        },
        heads={name: Linear(features=512, bias=True) for name in ("photometry", "spectrum", "metadata")},
        dim=512,
        scale=SCALE,
        scales={"scale_second": SCALE, "scale_third": SCALE},
    ),
    objective=pairs("photometry", "spectrum", "metadata"),
    optimizer=Adam(
        b1=0.926, weight_decay=Constant(value=4.67e-3), clip_norm=45.0, rules=(WeightDecay(path="**", factor=1.0),)
    ),
    schedule=WarmupCosine(peak=3.92e-3, warmup_steps=WARMUP * STARS // BATCH),
    epochs=EPOCHS,
)

MODALITIES = ("image", "text", "german")


def emoji(part: Literal["train", "test"]) -> SplitCaptions:
    """Pictures, their English and their German names."""
    return SplitCaptions(source=OpenMoji(image_size=48, part=part, languages=("en", "de")), names=MODALITIES[1:])


# A third of the rows lack one of the three; beyond the paper, which keeps complete ones, they take part in the others.
tiny = clip.tiny.replace(
    {
        "data.train": DropModalities(source=emoji("train"), names=MODALITIES, share=1 / 3),
        "data.texts": MODALITIES[1:],
        "method.towers": {"image": clip.TINY_IMAGE, "text": clip.TINY_TEXT, "german": clip.TINY_TEXT},
        "method.scales": {"scale_second": LogitScale(), "scale_third": LogitScale()},
    },
    objective=pairs(*MODALITIES, positives="masked", ids=("image_id", "text_id")),
    evals=(
        Retrieval(data=emoji("test")),
        Retrieval(data=emoji("test"), text="german", name="german"),
    ),
)
