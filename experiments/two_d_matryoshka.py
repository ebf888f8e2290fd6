"""2D Matryoshka: sentence embeddings that are good at every layer and every width (Li et al. 2024, arXiv:2402.14776).

A step trains the last layer and one other, drawn anew, each at full width and at nested ones; the other follows the
last one. The paper draws one nested width a step: here all of them are trained, each with its share of the weight, so
that the expected gradient is the same. Its pairs are trained with AnglE's loss, here with its in-batch contrast alone,
in which the rows of one side are no negatives of one another.
"""

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.tokenizers.base import Words
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.encoders.text.bert import Bert
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.evals.retrieval.layer_map import LayerMap
from jaxrep.methods.heads import LogitScale
from jaxrep.methods.sentence_encoder import SentenceEncoder
from jaxrep.objectives.base import Term
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.layers import LayerAlignment, SampledLayer
from jaxrep.objectives.matryoshka import Matryoshka
from jaxrep.optim.optimizers import AdamW
from jaxrep.recipe import Checkpointing, Data, Pretrained, Recipe
from jaxrep.schedules import Constant, WarmupCosine, WarmupLinear
from jaxrep.views.copies import Stack

WIDTHS = (8, 16, 32, 64, 128, 256, 512)  # doubled from 8 on, as in the authors' released code
TINY_WIDTHS = (4, 8, 16, 32, 64)


def objective(width: int, widths: tuple[int, ...]) -> dict[str, Term]:
    """The four losses of sections 3.2 to 3.4 and the alignment, all of weight 1; the alignment is one mean over the
    rows of both sides."""
    half = Constant(value=0.5)
    nested = Matryoshka(Contrastive("a", "b"), (width, *widths), weights=(1.0, *(1 / len(widths) for _ in widths)))
    return {
        "last": nested,
        "sampled": SampledLayer(nested),
        "align_a": LayerAlignment("a", weight=half),
        "align_b": LayerAlignment("b", weight=half),
    }


# Of the data, MultiNLI and SNLI as in the paper, the entailed pairs. Batch size, rate, epochs, warm-up and length are
# those of the reproduction by Wang et al. 2024 (ielab/2DMSE-Reproduce), temperature and pooling those of AnglE's code;
# the paper's own could not be checked. The reproduction adds up the gradients of 128 such batches before an update, so
# its rate and warm-up are of far larger, and fewer, updates.
recipe = Recipe(
    data=Data(
        train=ParquetTable(files="all-nli/pair/train-*.parquet", image="", text="anchor", captions=("positive",)),
        batch_size=128,
        tokenizer=TokenizerFile(path="bert-base-uncased/tokenizer.json", length=128, entries=30_522, clean="lower"),
        texts=("text", "positive"),
    ),
    views=(Stack("text", also=("positive",)),),
    method=SentenceEncoder(text=Bert.base(pool="cls"), scale=LogitScale(init=20.0, learned=False)),
    objective=objective(768, WIDTHS),
    optimizer=AdamW(clip_norm=1.0),
    schedule=WarmupLinear(peak=5e-5, warmup_steps=50),
    epochs=10,
    init={"text": Pretrained("bert-base-uncased")},
    checkpoint=Checkpointing(every_steps=1_000),
)

# Names of one emoji in two languages.
tiny = recipe.replace(
    data=Data(
        train=OpenMoji(image_size=48, languages=("en", "de")),
        batch_size=256,
        tokenizer=Words(length=16, max_words=8_192),
    ),
    views=(),
    method=SentenceEncoder(
        text=TextTransformer(width=128, depth=4, heads=4, activation="relu", causal=False, pool="mean"),
        scale=LogitScale(init=20.0, learned=False),
    ),
    objective=objective(128, TINY_WIDTHS),
    schedule=WarmupCosine(peak=2e-3, warmup_steps=50),
    init={},
    examples=300 * 256,
    evals=(
        LayerMap(
            data=OpenMoji(image_size=48, languages=("en", "de"), part="test"),
            dims=(*TINY_WIDTHS, 128),
        ),
    ),
)
