"""LiT: a text tower learns to read out a locked image tower (Zhai et al. 2022, arXiv:2111.07991)."""

from experiments import clip
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.bert import Bert
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Identity, LogitScale
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.optim.optimizers import Adafactor
from jaxrep.optim.rules import Freeze
from jaxrep.recipe import Checkpointing, Data, From, Pretrained, Recipe
from jaxrep.schedules import Constant, WarmupCosine
from jaxrep.views.geometry import RandomHorizontalFlip

STEPS, BATCH = 60_000, 16_384  # the released models on public data

LOCKED = (Freeze(path="image/**"),)
"""Nothing of the image tower is differentiated."""

# The public model of highest accuracy, L16L. Towers, schedule, temperature, clipping and 16 tokens are those of the
# released code (big_vision, configs/proj/image_text); batch size, weight decay and Adafactor's details could not be
# checked against the paper's text.
recipe = Recipe(
    data=Data(
        # CC12M and the captions of YFCC100M: point this at shards of your own.
        train=TarShards(shards="gs://YOUR-BUCKET/cc12m-yfcc100m/{00000..09999}.tar", image_size=224),
        batch_size=BATCH,
        tokenizer=TokenizerFile(path="bert-large-uncased/tokenizer.json", length=16, entries=30_522, clean="lower"),
    ),
    views=(RandomHorizontalFlip("image"),),
    method=DualEncoder(
        # The locked tower has no head: the space is that of its features.
        towers={"image": ViT.l14(stem=PatchStem(patch=16), norm_epsilon=1e-12), "text": Bert.large(pool="cls")},
        heads={"image": Identity()},
        dim=1024,
        scale=LogitScale(init=10.0, max=1_000.0),  # no limit is stated
    ),
    objective={"contrastive": Contrastive("image", "text")},
    optimizer=Adafactor(
        momentum=0.9,
        clip_rms=0.0,
        relative=False,
        min_factored=32,
        weight_decay=Constant(value=0.1),  # of the paper: 1e-4 at a learning rate of 1e-3, which does not multiply it
        clip_norm=1.0,
        rules=LOCKED,
    ),
    schedule=WarmupCosine(peak=1e-3, warmup_steps=STEPS * 3 // 100),
    examples=STEPS * BATCH,
    # Public checkpoints, in folders of these names: a ViT trained on ImageNet-21k, and BERT.
    init={"image": Pretrained("vit-large-patch16-224-in21k"), "text": Pretrained("bert-large-uncased")},
    checkpoint=Checkpointing(every_steps=2_000),
)

# The image tower has seen these pictures with their captions; the text tower starts anew.
tiny = clip.tiny.replace(
    {"method.heads": {"image": Identity()}, "optimizer.rules": LOCKED},
    init={"image": From(clip.tiny)},
    examples=300 * 256,
    seed=1,
)
