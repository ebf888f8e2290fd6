"""AstroM3: light curve, spectrum and metadata of a star in one space (Rizhko & Bloom 2024, arXiv:2411.08842).

The numbers are those of the released configuration of pretraining (MeriDK/AstroM3, configs/config-clip-full.yaml),
which comes from a search, to three digits. Its learning rate falls when the validation loss stands still; here it falls
along a cosine. It draws 200 points in sequence from a longer light curve, anew each time; here they are those of the
file.
Its tower of light curves has dropout of 0.1 after the embedding, and dropout of attention and inside the MLPs too; here
dropout acts on each branch's output.

``jaxrep train astrom3:tiny`` takes about 7 minutes on two cores. Beside CLIP on two modalities for 150 steps, accuracy
of a linear probe on images of new concepts (100 subgroups) rises from 0.408 ± 0.024 to 0.444 ± 0.010, and image to text
R@1 from 0.410 ± 0.103 to 0.482 ± 0.030 (three seeds, version 0.1; docs/recipes.md).
"""

from typing import Literal

from experiments import common
from experiments.image_text import clip
from jaxrep import Data, Recipe, data, encoders, evals, methods, objectives, optim, schedules

STARS, BATCH, EPOCHS, WARMUP = 17_045, 512, 100, 10  # about 17,000 of the 21,440 stars train
SCALE = methods.LogitScale(init=100.0, min=1.0, max=100.0)
SHAPES = {"photometry": (200, 9), "photometry/valid": (200,), "spectrum": (2_575, 3), "metadata": (34,)}


def pairs(a: str, b: str, c: str, **changes) -> dict[str, objectives.Contrastive]:
    """Contrast every two of three modalities, in both directions, at a temperature per pair."""
    scales = {(a, b): "scale", (b, c): "scale_second", (c, a): "scale_third"}
    return {
        f"{x}-{y}": objectives.Contrastive(x, y, scale=scale, direction="sum", **changes)
        for (x, y), scale in scales.items()
    }


recipe = Recipe(
    data=Data(
        # ASAS-SN's light curves, LAMOST's spectra and the catalog's columns, as arrays in .npz files of your own.
        train=data.ArrayShards(shards="astrom3/train-{00..16}.npz", shapes=SHAPES, kinds={"photometry/valid": "bool"}),
        batch_size=BATCH,
        texts=(),
    ),
    method=methods.DualEncoder(
        towers={
            # The authors' attention is Informer's sparse one; here it is full, and padding is not attended to.
            "photometry": encoders.SeriesTransformer(
                length=200, width=128, depth=8, heads=4, pool="flatten", dropout=0.245
            ),
            "spectrum": encoders.SeriesConvolutions(length=2_575, channels=(64, 64, 32, 32), dropout=0.339),
            "metadata": encoders.Perceptron(widths=(512, 512), dropout=0.160),
        },
        heads={name: methods.Linear(features=512, bias=True) for name in ("photometry", "spectrum", "metadata")},
        dim=512,
        scale=SCALE,
        scales={"scale_second": SCALE, "scale_third": SCALE},
    ),
    objective=pairs("photometry", "spectrum", "metadata"),
    optimizer=optim.Adam(
        b1=0.926,
        weight_decay=schedules.Constant(value=4.67e-3),
        clip_norm=45.0,
        rules=(optim.WeightDecay(path="**", factor=1.0),),
    ),
    schedule=schedules.WarmupCosine(peak=3.92e-3, warmup_steps=WARMUP * STARS // BATCH),
    epochs=EPOCHS,
)

MODALITIES = ("image", "text", "german")


def emoji(part: Literal["train", "test"]) -> data.SplitCaptions:
    """Return pictures with their English and their German names."""
    return data.SplitCaptions(source=common.emoji(part, languages=("en", "de")), names=MODALITIES[1:])


# A third of the rows lack one of the three modalities and train the other pairs. The paper keeps complete rows only.
tiny = clip.tiny.replace(
    {
        "data.train": data.DropModalities(source=emoji("train"), names=MODALITIES, share=1 / 3),
        "data.texts": MODALITIES[1:],
        "method.towers": {"image": common.IMAGE, "text": common.TEXT, "german": common.TEXT},
        "method.scales": {"scale_second": methods.LogitScale(), "scale_third": methods.LogitScale()},
    },
    objective=pairs(*MODALITIES, duplicates="ignore", ids=common.IDS),
    evals=(
        evals.Retrieval(data=emoji("test")),
        evals.Retrieval(data=emoji("test"), text="german", name="german"),
    ),
)
