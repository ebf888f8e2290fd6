"""ALIGN: a dual encoder on noisy alt-texts, with little cleaning (Jia et al. 2021, arXiv:2102.05918).

``jaxrep train align:tiny`` takes about 20 minutes on two cores. A run of a fifth of its length (``--examples 30720``)
takes the loss from 11.5 to 6.1, and finds first 1.3% and 1.8% of 398 held-out pairs (R@1 of either way, seed 0; chance
is 0.25%). The whole run, and the effect, were not measured.
"""

from experiments import common
from jaxrep import Checkpointing, Data, Recipe, data, encoders, evals, methods, objectives, optim, schedules, views

STEPS, BATCH = 1_200_000, 16_384  # section 5

recipe = Recipe(
    data=Data(
        # 1.8 billion alt-texts. They are not public: point this at shards of your own.
        train=data.TarShards(
            shards="gs://YOUR-BUCKET/alt-text/{00000..89999}.tar", image_size=346, crop=data.HostResize()
        ),
        batch_size=BATCH,
        tokenizer=data.TokenizerFile(path="wordpiece-100k.json", length=64, entries=100_000),  # sections 4.1 and 5
        order=common.lanes(32),
    ),
    views=(views.RandomSquareCrop("image", size=289), views.RandomHorizontalFlip("image")),  # section 5
    method=methods.DualEncoder(
        # Pooled features without the last 1 x 1 convolution; BERT's class token and a linear layer (section 4.1).
        towers={"image": encoders.EfficientNet.l2(head_conv=False), "text": encoders.Bert.large(pool="cls")},
        heads={"image": methods.Identity()},
        dim=1376,
        scale=methods.LogitScale(init=1.0, max=1_000.0),  # the learned temperature starts at 1; no limit is stated
    ),
    # Equation 1 plus equation 2.
    objective={"contrastive": objectives.Contrastive("image", "text", direction="sum", label_smoothing=0.1)},
    optimizer=optim.Lamb(weight_decay=schedules.Constant(value=1e-5)),
    schedule=schedules.WarmupLinear(peak=1e-3, warmup_steps=10_000),
    examples=STEPS * BATCH,
    checkpoint=Checkpointing(every_steps=2_000),
)

tiny = recipe.replace(
    {"objective.contrastive.duplicates": "ignore", "objective.contrastive.ids": common.IDS},
    data=Data(train=common.emoji(), batch_size=256, tokenizer=data.Words(length=16)),
    views=(common.SHIFT, common.JITTER),
    method=methods.DualEncoder(
        towers={
            "image": encoders.EfficientNet(width_factor=0.5, depth_factor=0.33, stages=5, head_conv=False),
            "text": encoders.Bert(width=128, depth=2, heads=4, pool="cls"),
        },
        heads={"image": methods.Identity()},
        dim=56,
        scale=methods.LogitScale(init=10.0, max=100.0),  # from 1 it would take most of this short training to rise
    ),
    schedule=schedules.WarmupLinear(peak=2e-2, warmup_steps=50),
    examples=600 * 256,
    evals=(evals.Retrieval(data=common.emoji("test")),),
)
