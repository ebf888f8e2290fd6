"""DreamLIP: several sub-captions an image, and each grouped with its patches (Zheng et al. 2024, arXiv:2403.17007)."""

from experiments import clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.sentences import SubCaptions
from jaxrep.encoders.image.vit import ViT
from jaxrep.methods.dual_encoder.token_grouping import TokenGrouping
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.views import AllViews, EachView
from jaxrep.schedules import WarmupCosine
from jaxrep.views.crop import RandomResizedCrop

DESCRIBED = tuple(f"{model}_{kind}" for model in ("instructblip", "llava", "sharegpt4v") for kind in ("short", "long"))

# The towers are the paper's; the other numbers are the defaults of the released code, and could not be checked against
# the paper's text, nor could the threshold of grouping (here one over the number of patches, as the code offers), the
# batch size of 1,024, and how patches are projected (here by a matrix of their own: the code has left it out).
# As in the code, what a sub-caption's patches are told apart from are all other sub-captions of the batch; there the
# temperature of grouping is a parameter of its own.
recipe = clip.recipe.replace(
    {
        # CC3M with short and long captions by three models: point this at shards of your own.
        "data.train": SubCaptions(
            source=TarShards(
                shards="gs://YOUR-BUCKET/cc3m-long/{00000..00331}.tar", image_size=256, captions=DESCRIBED
            ),
            of=DESCRIBED,
            count=6,
        ),
        "data.batch_size": 1_024,
        "method.towers.image": ViT.b16(),
        "method.towers.text.activation": "gelu",
        "method.grouping": TokenGrouping(threshold=1 / 196),
    },
    views=(RandomResizedCrop("image", size=224, scale=(0.9, 1.0)),),
    objective={
        "multi_positive": EachView(Contrastive("image", "text")),
        "grouping": AllViews(Contrastive("image/grouped", "text")),
    },
    schedule=WarmupCosine(peak=5e-4, warmup_steps=10_000),
    epochs=32,
)

# Names in three languages are three captions of a picture.
tiny = clip.tiny.replace(
    {
        "data.train": OpenMoji(image_size=48, languages=("en", "de", "fr")),
        "data.tokenizer.max_words": 8192,
        "method.grouping": TokenGrouping(threshold=1 / 16),
    },
    objective={
        "multi_positive": EachView(Contrastive("image", "text", positives="masked", ids=("image_id", "text_id"))),
        "grouping": AllViews(Contrastive("image/grouped", "text", positives="masked", ids=("text_id",))),
    },
)
