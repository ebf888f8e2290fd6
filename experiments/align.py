"""ALIGN: a dual encoder on noisy alt-texts, with little cleaning (Jia et al. 2021, arXiv:2102.05918)."""

from jaxrep.data.images.crop import HostResize
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Words
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.encoders.image.efficientnet import EfficientNet
from jaxrep.encoders.text.bert import Bert
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Identity, LogitScale
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.optim.optimizers import Lamb
from jaxrep.recipe import Checkpointing, Data, Recipe
from jaxrep.schedules import Constant, WarmupLinear
from jaxrep.views.color import ColorJitter
from jaxrep.views.crop import RandomSquareCrop
from jaxrep.views.geometry import RandomHorizontalFlip, RandomTranslate

STEPS, BATCH = 1_200_000, 16_384  # section 5

recipe = Recipe(
    data=Data(
        # 1.8 billion alt-texts, which are not public: point this at shards of your own.
        train=TarShards(shards="gs://YOUR-BUCKET/alt-text/{00000..89999}.tar", image_size=346, crop=HostResize()),
        batch_size=BATCH,
        tokenizer=TokenizerFile(path="wordpiece-100k.json", length=64, entries=100_000),  # sections 4.1 and 5
    ),
    views=(RandomSquareCrop("image", size=289), RandomHorizontalFlip("image")),  # section 5
    method=DualEncoder(
        # Pooled features without the last 1 x 1 convolution; BERT's class token and a linear layer (section 4.1).
        towers={"image": EfficientNet.l2(head_conv=False), "text": Bert.large(pool="cls")},
        heads={"image": Identity()},
        dim=1376,
        scale=LogitScale(init=1.0, max=1_000.0),  # the temperature is learned and starts at 1; no limit is stated
    ),
    objective={"contrastive": Contrastive("image", "text", direction="sum", label_smoothing=0.1)},  # eq. 1 + eq. 2
    optimizer=Lamb(weight_decay=Constant(value=1e-5)),
    schedule=WarmupLinear(peak=1e-3, warmup_steps=10_000),
    examples=STEPS * BATCH,
    checkpoint=Checkpointing(every_steps=2_000),
)

tiny = recipe.replace(
    data=Data(train=OpenMoji(image_size=48), batch_size=256, tokenizer=Words(length=16)),
    views=(RandomTranslate("image", pixels=3), ColorJitter("image", brightness=0.02, contrast=0.02, saturation=0.02)),
    method=DualEncoder(
        towers={
            "image": EfficientNet(width_factor=0.5, depth_factor=0.33, stages=5, head_conv=False),
            "text": Bert(width=128, depth=2, heads=4, pool="cls"),
        },
        heads={"image": Identity()},
        dim=56,
        scale=LogitScale(init=10.0, max=100.0),  # from 1 it would take most of so short a training to rise
    ),
    objective={
        "contrastive": Contrastive(
            "image", "text", direction="sum", label_smoothing=0.1, positives="masked", ids=("image_id", "text_id")
        )
    },
    schedule=WarmupLinear(peak=2e-2, warmup_steps=50),
    examples=600 * 256,
    evals=(Retrieval(data=OpenMoji(image_size=48, part="test")),),
)
