"""Long-CLIP: a CLIP learns to read long captions, and keeps what it knows of short ones (Zhang et al. 2024,
arXiv:2403.15378).

Positions are stretched from 77 to 248 but for the first 20. Images are matched with long captions, and what is coarse
in them, their first principal components, with short ones.
"""

from experiments import clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Words
from jaxrep.data.tokenizers.subwords import ClipBpe
from jaxrep.data.transforms.sentences import FirstSentence
from jaxrep.methods.heads import LogitScale
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.primary_components import PrimaryComponents
from jaxrep.optim.optimizers import AdamW
from jaxrep.optim.rules import WeightDecay
from jaxrep.recipe import From, Pretrained
from jaxrep.schedules import Constant, WarmupCosine

KEPT = 20  # section 3.1: the effective length of CLIP's texts
PARTS = ("image", "image_head", "text_head")

# The numbers are those of the released training guide, which corrects the paper's learning rate. There the components
# are those of one device's rows, here of the whole batch, and the positions that stay are not trained.
recipe = clip.vit_l14.replace(
    {
        # ShareGPT4V's 1.2 million pictures with long captions: point this at shards of your own.
        "data.train": FirstSentence(
            source=TarShards(shards="gs://YOUR-BUCKET/sharegpt4v/{00000..01245}.tar", image_size=224)
        ),
        "data.batch_size": 2_048,
        "data.tokenizer": ClipBpe(vocabulary="bpe_simple_vocab_16e6.txt.gz", length=4 * 77 - 3 * KEPT),
        "data.texts": ("text", "short"),
        "method.shared_towers": {"short": "text"},
        "method.scale": LogitScale(init=100.0, max=1_000.0),  # starts anew at 100; no limit is stated
    },
    views=(),
    objective={
        "long": Contrastive("image", "text", label_smoothing=0.1),
        "short": PrimaryComponents(Contrastive("image", "short", label_smoothing=0.1), count=32),
    },
    optimizer=AdamW(weight_decay=Constant(value=1e-2), rules=(WeightDecay(path="**", factor=1.0),)),
    schedule=WarmupCosine(peak=1e-6, warmup_steps=200),
    epochs=6,
    init={
        "text": Pretrained("clip-vit-large-patch14", stretch_after=KEPT),
        **{part: Pretrained("clip-vit-large-patch14") for part in PARTS},
    },
)

# What comes before the colon of a name says what it is about, and what comes after it gives its details.
tiny = clip.tiny.replace(
    {
        "data.train": FirstSentence(source=OpenMoji(image_size=48), end=": "),
        "data.tokenizer": Words(length=4 * 16 - 3 * 12),
        "data.texts": ("text", "short"),
        "method.shared_towers": {"short": "text"},
    },
    objective={
        "long": clip.tiny.objective["contrastive"],
        "short": PrimaryComponents(
            Contrastive("image", "short", positives="masked", ids=("image_id", "short_id")), count=32
        ),
    },
    schedule=WarmupCosine(peak=5e-4, warmup_steps=30),
    examples=300 * 256,
    init={"text": From(clip.tiny, stretch_after=12), **{part: From(clip.tiny) for part in (*PARTS, "scale")}},
    seed=1,
)
