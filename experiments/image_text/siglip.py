"""SigLIP: Sigmoid Loss for Language Image Pre-Training (Zhai et al. 2023, arXiv:2303.15343).

Every pair of an image and a text is a binary classification. ``recipe`` trains from scratch, ``siglit`` reads out a
locked image tower, ``fine_tune`` trains a pretrained image tower further, without weight decay on it.

``jaxrep train siglip:tiny`` takes about 6 minutes on two cores. After 800 steps of 128, R@1 (mean of both directions)
is 0.148 ± 0.088 lower than that of CLIP (docs/recipes.md).
"""

from experiments import common
from experiments.image_text import clip, lit
from jaxrep import Pretrained, data, encoders, methods, objectives, optim, schedules

KERNELS = tuple(optim.WeightDecay(path=path, factor=0.0) for path in ("*/positions", "text/embedding"))
"""Weight decay acts on kernels only, as in big_vision."""
SCALE = methods.LogitScale(init=10.0, max=1_000.0)  # section 3.2, algorithm 1; no limit is stated
BIAS = methods.LogitBias(init=-10.0)

# Loss, start of scale and bias, batch size and b2 are the paper's. The towers (tanh GELU, attention pooling, a head
# with bias), squashed pictures, texts in lower case, padding by 1 and decay of kernels only were read in the released
# code (google-research/big_vision: models/vit.py, models/proj/image_text/, pp/ops_text.py, optax.py), 64 tokens are
# those of the released models. Learning rate, weight decay, warm-up and the number of examples could not be checked
# against the paper's text. Initial values there are Xavier's for kernels; here the last kernel of a branch is smaller.
recipe = clip.recipe.replace(
    {
        # The English pairs of WebLI. They are not public: point this at shards of your own.
        "data.train": data.TarShards(shards="gs://YOUR-BUCKET/webli-en/{00000..89999}.tar", crop=data.HostResize()),
        "data.tokenizer": data.SentencePieceModel(
            path="c4-en-32k.model", length=64, entries=32_000, clean="lower", pad=1
        ),
        "method": methods.DualEncoder(
            towers={
                "image": encoders.ViT.b16(pool="attention", norm_epsilon=1e-6, activation="gelu_tanh"),
                # Padding is read as text. The last position, padding or not, gives the features.
                "text": encoders.TextTransformer(
                    width=768,
                    depth=12,
                    heads=12,
                    norm_epsilon=1e-6,
                    activation="gelu_tanh",
                    causal=False,
                    pool="eos",
                    end="never",
                ),
            },
            heads={"image": methods.Identity(), "text": methods.Linear(features=768, bias=True)},
            dim=768,
            scale=SCALE,
            bias=BIAS,
        ),
        # 1e-4 at a learning rate of 1e-3, which does not multiply it there; b2 against instability (section 4).
        "optimizer": optim.AdamW(b2=0.95, weight_decay=schedules.Constant(value=0.1), clip_norm=1.0, rules=KERNELS),
    },
    views=(),
    objective={"sigmoid": objectives.Sigmoid("image", "text")},  # equation 1
    schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=20_000),
    examples=9_000_000_000,
)

# The paper's locked tower, a ViT-g/14, is not public. LiT's L/16 replaces it, with LiT's number of steps.
siglit = lit.recipe.replace(
    {"data.batch_size": 20_480, "method.scale": SCALE, "method.bias": BIAS},  # table 1: 20k
    objective=recipe.objective,
    examples=lit.STEPS * 20_480,
)

# The image tower starts from a public ViT-AugReg-B/16 and has no weight decay (figure 4), in batches of 16k.
fine_tune = recipe.replace(
    {
        "data.batch_size": 16_384,
        "method.towers.image": encoders.ViT.b16(norm_epsilon=1e-6),  # with its class token
        "optimizer.rules": (*KERNELS, optim.WeightDecay(path="image/**", factor=0.0)),
    },
    init={"image": Pretrained("vit_base_patch16_224.augreg_in21k")},
    examples=2_400_000_000,
)

# -ln(B - 1) is the bias at which a random guess is right; the paper's -10 belongs to its batches of 32,768 pairs.
tiny = clip.tiny.replace(
    {"method.scale": SCALE, "method.bias": methods.LogitBias(init=-5.5)},
    objective={"sigmoid": objectives.Sigmoid("image", "text", duplicates="ignore", ids=common.IDS)},
)

# A learned query pools both towers.
tiny_attention = tiny.replace(
    {"method.towers.image.pool": "attention", "method.towers.text.pool": "attention"},
)
