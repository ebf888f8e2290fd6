"""NegCLIP: a CLIP learns to read the order of words, against wrong captions of its own pictures and of similar ones
(Yuksekgonul et al. 2023, arXiv:2210.01936).

In a wrong caption two noun phrases, nouns, adjectives, adverbs or verbs have changed places. Wrong captions are
negatives of every image; no image belongs to them. Pictures that look alike are in one batch.
"""

from experiments import clip
from jaxrep.data.images.crop import HostRandomResizedCrop
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.orders.groups import Grouped, Neighbors
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.hard_negatives import HardNegativeCaptions
from jaxrep.evals.retrieval.composition import Composition
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.recipe import From, Pretrained
from jaxrep.schedules import WarmupCosine

PARTS = ("image", "text", "image_head", "text_head", "scale")

# The numbers are those of the authors' released command and of the fork of open_clip that it runs; they could not be
# checked against the paper's text (section 4 and its appendix). There spaCy's tags give the wrong captions beforehand,
# with verb phrases where verbs are here, and each of the 256 examples of a batch brings one of its three nearest along;
# here every example comes once an epoch, after or before its nearest ones, so that ten epochs are five of theirs.
recipe = clip.vit_b32.replace(
    {
        # COCO's training captions, each with its picture; and in the metadata, as ``neighbors``, the indices of the
        # three examples with the nearest pictures, by the embeddings of ``jaxrep embed``: point this at your own.
        "data.train": HardNegativeCaptions(
            source=TarShards(shards="gs://YOUR-BUCKET/coco-train/{00000..00112}.tar", crop=HostRandomResizedCrop()),
            kinds=("noun_phrase", "noun", "adjective", "adverb", "verb"),
            spacy="en_core_web_sm",
        ),
        "data.batch_size": 2 * 256,
        "data.texts": ("text", "negative"),
        "data.order": Neighbors(k=3),
        "method.shared_towers": {"negative": "text"},
    },
    views=(),
    objective={"contrastive": Contrastive("image", "text", extra_b="negative")},
    schedule=WarmupCosine(peak=1e-6, warmup_steps=50),
    epochs=2 * 5,
    init={part: Pretrained("clip-vit-base-patch32") for part in PARTS},
)

# Forms of one concept stand for pictures that look alike. Every wrong caption is another picture's right one, so that
# it is none by itself; where that picture is in the batch it is no negative of it.
tiny = clip.tiny.replace(
    {
        "data.train": HardNegativeCaptions(
            source=OpenMoji(image_size=48),
            ways=("replace", "exchange"),
            kinds=("skin_tone", "gender", "direction", "color"),
            only_known=True,
        ),
        "data.texts": ("text", "negative"),
        "data.order": Grouped(by="concept", per_group=2),
        "method.shared_towers": {"negative": "text"},
    },
    objective={
        "contrastive": Contrastive("image", "text", extra_b="negative", positives="masked", ids=("image_id", "text_id"))
    },
    schedule=WarmupCosine(peak=5e-4, warmup_steps=30),
    examples=300 * 256,
    init={part: From(clip.tiny) for part in PARTS},
    seed=1,
    evals=(*clip.tiny.evals, Composition(data=OpenMoji(image_size=48, part="test"))),
)
