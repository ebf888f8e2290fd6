"""2D Matryoshka Sentence Embeddings: good at every layer and every width (Li et al. 2024, arXiv:2402.14776).

A step trains the last layer and one other, drawn anew, each at full width and at nested ones; the other is aligned with
the last one. The paper draws one nested width per step. Here all of them are trained with equal shares of the weight,
so that the expected gradient is the same. Its pairs are trained with AnglE's loss, here with its in-batch contrast
alone, in which the rows of one side are no negatives of one another.

``jaxrep train two_d_matryoshka:tiny`` takes about 3 minutes on two cores. Beside the contrast of the last layer
at full width for 100 steps, German to English R@1 of layer 1 at width 8 rises from 0.602 ± 0.035 to 0.909 ± 0.016, and
of the last layer at full width is 0.953 ± 0.006 in place of 0.950 ± 0.006 (five seeds; docs/recipes.md).
"""

from experiments import common
from jaxrep import Data, Pretrained, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

WIDTHS = (8, 16, 32, 64, 128, 256, 512)  # doubled from 8 on, as in the authors' released code
TINY_WIDTHS = (4, 8, 16, 32, 64)
SCALE = methods.LogitScale(init=20.0, trainable=False)


def objective(width: int, widths: tuple[int, ...], contrast: float = 1.0) -> dict[str, objectives.Term]:
    """Return the four losses of sections 3.2 to 3.4, each of weight ``contrast``, and the alignment, of weight 1.

    The alignment is one mean over the rows of both sides.
    """
    half = schedules.Constant(value=0.5)
    nested = objectives.Matryoshka(
        objectives.Contrastive("a", "b"),
        (width, *widths),
        weights=(contrast, *(contrast / len(widths) for _ in widths)),
    )
    return {
        "last": nested,
        "sampled": objectives.SampledLayer(nested),
        "align_a": objectives.LayerAlignment("a", weight=half),
        "align_b": objectives.LayerAlignment("b", weight=half),
    }


# Of the data, MultiNLI and SNLI as in the paper, the entailed pairs. Batch size, rate, epochs, warm-up, length, pooling
# and the weight of the contrast were read in the reproduction by Wang et al. 2024 (ielab/2DMSE-Reproduce,
# code/STS_V2_Angle/train_2dmse.sh), the temperature in its AngleLoss; the paper's own could not be checked. That
# command trains all layers at two widths, with AnglE's angle loss and written negatives too, and adds up the gradients
# of 128 batches before an update, so its rate and warm-up are of far larger, and fewer, updates.
recipe = Recipe(
    data=Data(
        train=data.ParquetTable(files="all-nli/pair/train-*.parquet", image="", text="anchor", captions=("positive",)),
        batch_size=128,
        tokenizer=data.TokenizerFile(
            path="bert-base-uncased/tokenizer.json", length=128, entries=30_522, clean="lower"
        ),
        texts=("text", "positive"),
    ),
    views=(views.StackFields("text", others=("positive",)),),
    method=methods.SentenceEncoder(text=encoders.Bert.base(pool="cls"), scale=SCALE),
    objective=objective(768, WIDTHS, contrast=30.0),
    optimizer=optim.AdamW(clip_norm=1.0),
    schedule=schedules.WarmupLinear(peak=5e-5, warmup_steps=50),
    epochs=10,
    init={"text": Pretrained("bert-base-uncased")},
)

LANGUAGES = ("en", "de")  # names of one emoji in two languages

tiny = recipe.replace(
    data=Data(
        train=common.emoji(languages=LANGUAGES),
        batch_size=256,
        tokenizer=data.Words(length=16, max_words=8_192),
    ),
    views=(),
    method=methods.SentenceEncoder(
        text=encoders.TextTransformer(width=128, depth=4, heads=4, activation="relu", causal=False, pool="mean"),
        scale=SCALE,
    ),
    objective=objective(128, TINY_WIDTHS),
    schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=50),
    init={},
    examples=300 * 256,
    evals=(evals.LayerMap(data=common.emoji("test", languages=LANGUAGES), dims=(*TINY_WIDTHS, 128)),),
)
