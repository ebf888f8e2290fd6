"""RS-M-CLIP: a CLIP of remote sensing reads ten languages, and its image tower learns from its own moving average,
which sees more of a picture (Silva et al. 2024, arXiv:2410.23370)."""

from typing import Literal

from experiments import clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Words
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.data.transforms.captions import SampleCaption
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.bert import Bert
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.methods.dual_encoder.distilled import DistilledDualEncoder
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import LogitScale
from jaxrep.methods.self_supervised.self_distillation import PrototypeHead
from jaxrep.methods.state import Ema
from jaxrep.objectives.base import Term
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.distillation import Dino
from jaxrep.objectives.views import EachView
from jaxrep.recipe import Data, Pretrained
from jaxrep.schedules import Constant, WarmupCosine
from jaxrep.spec import replace
from jaxrep.views.base import View
from jaxrep.views.copies import Copy
from jaxrep.views.crop import RandomResizedCrop

LANGUAGES = ("en", "pt", "es", "fr", "de", "nl", "it", "zh", "ko", "ru")


def views(sizes: tuple[int, int], scales: tuple[tuple[float, float], ...], local: int) -> tuple[View, ...]:
    """Two global crops in place of the picture, and smaller local ones."""
    return (
        Copy("image", out="local", count=local),
        Copy("image", out="image", count=2),
        RandomResizedCrop("image", size=sizes[0], scale=scales[0]),
        RandomResizedCrop("local", size=sizes[1], scale=scales[1]),
    )


def objective(contrastive: Term) -> dict[str, Term]:
    """Each global crop goes with the text; every crop of the student follows the teacher's other global ones."""
    return {"contrastive": EachView(contrastive, of="image"), "dino": Dino(local="student/local")}


# The released model's card states towers, languages and the checkpoint from which it starts, open_clip's ViT-B-32
# with xlm-roberta-base on LAION-5B. That file's text tower, with its two-layer projection, is not read here: the
# towers start from two other checkpoints. Two global and eight local crops, their areas, the fixed momentum and a
# contrast for each global crop are SILC's (Naeem et al. 2023, arXiv:2310.13355), temperatures, prototypes and
# balancing DINOv2's. Of the paper's own text nothing could be checked: these choices, how languages are drawn (here
# one a picture, anew each epoch), the momentum itself, batch size, rates and length are those of this file.
recipe = clip.vit_b32.replace(
    {
        # Pictures of remote sensing, each with a caption a language in .en, .pt …: point this at shards of your own.
        "data.train": SampleCaption(
            source=TarShards(
                shards="gs://YOUR-BUCKET/rs-captions/{00000..00099}.tar", image_size=256, captions=LANGUAGES
            ),
            probabilities=dict.fromkeys(LANGUAGES, 1.0),
        ),
        "data.batch_size": 512,
        "data.tokenizer": TokenizerFile(
            path="xlm-roberta-base/tokenizer.json", length=77, entries=250_002, pad="<pad>"
        ),
        "optimizer.weight_decay": Constant(value=0.1),
    },
    views=views((224, 96), ((0.4, 1.0), (0.05, 0.4)), local=8),
    method=DistilledDualEncoder(
        dual=DualEncoder(
            towers={
                "image": replace(ViT.b32().as_clip(), {"activation": "gelu", "any_size": True}),
                "text": Bert.base(segments=1, pad=1, norm_epsilon=1e-5, pool="mean"),
            },
            shared_towers={"local": "image"},
            scale=LogitScale(init=100.0, max=100.0),
        ),
        teacher=Ema(of=("image", "head"), momentum=Constant(value=0.996)),
    ),
    objective=objective(Contrastive("image", "text")),
    schedule=WarmupCosine(peak=1e-5, warmup_steps=1_000),
    epochs=20,
    init={
        **{part: Pretrained("CLIP-ViT-B-32-laion2B-s34B-b79K") for part in ("image", "image_head")},
        "text": Pretrained("xlm-roberta-base"),
    },
)

EMOJI = (*(language for language in LANGUAGES if language != "nl"), "id")  # whose names lack Dutch: Indonesian


def named(part: Literal["train", "test"], *languages: str) -> OpenMoji:
    """Pictures and their names."""
    return OpenMoji(image_size=48, part=part, languages=languages)


tiny = clip.tiny.replace(
    data=Data(
        train=SampleCaption(source=named("train", *EMOJI), probabilities={"text": 1.0}),
        batch_size=256,
        tokenizer=Words(length=24, max_words=16_384),  # all words of the ten languages
    ),
    views=views((48, 24), ((0.5, 1.0), (0.2, 0.5)), local=4),
    method=DistilledDualEncoder(
        dual=DualEncoder(
            towers={"image": replace(clip.TINY_IMAGE, any_size=True), "text": clip.TINY_TEXT},
            shared_towers={"local": "image"},
            dim=128,
        ),
        head=PrototypeHead(prototypes=256, hidden=128, width=64),
        teacher=Ema(of=("image", "head"), momentum=Constant(value=0.98)),
    ),
    objective=objective(Contrastive("image", "text", positives="masked", ids=("image_id", "text_id"))),
    evals=tuple(Retrieval(data=named("test", language), name=f"retrieval/{language}") for language in EMOJI),
)
