"""SigLIP: every pair of an image and a text is a yes or a no of its own (Zhai et al. 2023, arXiv:2303.15343).

``recipe`` trains from scratch, ``siglit`` reads out a locked image tower, ``fine_tune`` goes on training a pretrained
one, on which weight decay is off.
"""

from experiments import clip, lit
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.subwords import SentencePieceModel
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Identity, Linear, LogitBias, LogitScale
from jaxrep.objectives.contrastive import Sigmoid
from jaxrep.optim.optimizers import AdamW
from jaxrep.optim.rules import WeightDecay
from jaxrep.recipe import Pretrained
from jaxrep.schedules import Constant, WarmupCosine

KERNELS = tuple(WeightDecay(path=path, factor=0.0) for path in ("*/positions", "text/embedding"))
"""Only kernels are decayed, as by big_vision's rule."""
SCALE, BIAS = LogitScale(init=10.0, max=1_000.0), LogitBias(init=-10.0)  # section 3.2, algorithm 1; no limit is stated

# Loss, start of scale and bias, batch size, b2 and towers are the paper's. Learning rate, weight decay, warm-up and
# the number of examples could not be checked against the paper's text; the 64 tokens are those of the released models.
recipe = clip.recipe.replace(
    {
        # The English pairs of WebLI, which are not public: point this at shards of your own.
        "data.train": TarShards(shards="gs://YOUR-BUCKET/webli-en/{00000..89999}.tar", image_size=224),
        "data.tokenizer": SentencePieceModel(path="c4-en-32k.model", length=64, entries=32_000, clean="canonical"),
        "method": DualEncoder(
            towers={
                "image": ViT.b16(pool="attention", norm_epsilon=1e-6),
                # Padding is read as text, and the last token, whatever it is, makes the features.
                "text": TextTransformer(
                    width=768, depth=12, heads=12, norm_epsilon=1e-6, causal=False, pool="eos", end="never"
                ),
            },
            heads={"image": Identity(), "text": Linear(features=768, bias=True)},
            dim=768,
            scale=SCALE,
            bias=BIAS,
        ),
        # 1e-4 at a learning rate of 1e-3, which does not multiply it there; b2 against instability (section 4).
        "optimizer": AdamW(b2=0.95, weight_decay=Constant(value=0.1), clip_norm=1.0, rules=KERNELS),
    },
    views=(),
    objective={"sigmoid": Sigmoid("image", "text")},  # equation 1
    schedule=WarmupCosine(peak=1e-3, warmup_steps=20_000),
    examples=9_000_000_000,
)

# The paper's locked tower, a ViT-g/14, is not public: LiT's L/16 stands for it, with LiT's number of steps.
siglit = lit.recipe.replace(
    {"data.batch_size": 20_480, "method.scale": SCALE, "method.bias": BIAS},  # table 1: 20k
    objective=recipe.objective,
    examples=lit.STEPS * 20_480,
)

# The image tower starts from a public ViT-AugReg-B/16 and is not decayed (figure 4), in batches of 16k.
fine_tune = recipe.replace(
    {
        "data.batch_size": 16_384,
        "method.towers.image": ViT.b16(norm_epsilon=1e-6),  # with its class token
        "optimizer.rules": (*KERNELS, WeightDecay(path="image/**", factor=0.0)),
    },
    init={"image": Pretrained("vit_base_patch16_224.augreg_in21k")},
    examples=2_400_000_000,
)

tiny = clip.tiny.replace(
    {"method.towers.image.pool": "attention", "method.scale": SCALE, "method.bias": BIAS},
    objective={"sigmoid": Sigmoid("image", "text", positives="masked", ids=("image_id", "text_id"))},
)
