"""Numbers of the recipes, each with the place where it was read.

A source is a file of the authors' released code, read for this table, or ``AS_STATED``: what the experiment's own
comment says of it. A number that a recipe takes over from CLIP's is in CLIP's rows only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.data import HostRandomResizedCrop, HostResize
from jaxrep.encoders import PixelNorm, ViT
from jaxrep.experiment import load
from jaxrep.experiment_files import list_experiments
from jaxrep.spec import walk

AS_STATED = "as the experiment's comment states: "
WHOLE = HostRandomResizedCrop(scale=(0.08, 1.0))
"""torchvision's RandomResizedCrop with its defaults."""


class Number(NamedTuple):
    """A value of a recipe and where it was read."""

    path: str
    value: Any
    source: str


def numbers(source: str, **values: Any) -> list[Number]:
    """Return rows of one source. In a name ``__`` stands for a dot."""
    return [Number(name.replace("__", "."), value, source) for name, value in values.items()]


CLIPA, FLIP = "UCSC-VLAA/CLIPA, clipa_jax/", "facebookresearch/flip, "
CLIP, DREAMLIP = "openai/CLIP, clip/model.py", "zyf0619sjtu/DreamLIP, training/params.py"
LIT = "google-research/big_vision, configs/proj/image_text/lit_coco.py"
BIG_VISION = "google-research/big_vision, "
GRAIN = "shaunak27/grain-clip, "
METACLIP = "facebookresearch/MetaCLIP, configs/metaclip_v1.py"
MIXED = "wgcban/mix-bt, main_imagenet.py"
BYOL, SIMSIAM = "google-deepmind/deepmind-research, byol/", "facebookresearch/simsiam, "
MOCO, MOCO_3 = "facebookresearch/moco, ", "facebookresearch/moco-v3, "
STACKED = "sydney-machine-learning/autoencoders_remotesensing, Autoencoder_Sentinel2.ipynb"
METRIX = "billpsomas/Metrix_ICLR22, "
DINO = "facebookresearch/dino, "
SATMAE_PP = "techmn/satmae_pp, "
SWAV = "facebookresearch/swav, "
OBOW, PIXPRO = "valeoai/obow, ", "zdaxie/PixPro, "
DINOPL = "safelix/dinopl, "
CAE, DEIT, KWT = "Atten4Vis/CAE, ", "facebookresearch/deit, ", "ARM-software/keyword-transformer, "
DINOV2 = "facebookresearch/dinov2, dinov2/configs/ssl_default_config.yaml"
TWO_D = "ielab/2DMSE-Reproduce, code/STS_V2_Angle/"

MAE, SIMMIM = "facebookresearch/mae, ", "microsoft/SimMIM, "
SIMMIM_800 = SIMMIM + "configs/vit_base__800ep/simmim_"
TABLE: Mapping[str, list[Number]] = {
    "align:recipe": numbers(AS_STATED + "sections 4.1 and 5",
        data__batch_size=16_384, data__tokenizer__length=64, data__tokenizer__entries=100_000, views__0__size=289,
        objective__contrastive__label_smoothing=0.1, optimizer__weight_decay__value=1e-5, schedule__peak=1e-3,
        schedule__warmup_steps=10_000),
    "astrom3:recipe": numbers("MeriDK/AstroM3, configs/config-clip-full.yaml (to three digits)",
        data__batch_size=512, method__towers__photometry__length=200, method__towers__photometry__width=128,
        method__towers__photometry__depth=8, method__towers__photometry__heads=4,
        method__towers__photometry__dropout=0.245, method__towers__spectrum__channels=(64, 64, 32, 32),
        method__towers__spectrum__dropout=0.339, method__towers__metadata__widths=(512, 512),
        method__towers__metadata__dropout=0.160, method__dim=512, optimizer__b1=0.926, optimizer__b2=0.999,
        optimizer__weight_decay__value=4.67e-3, optimizer__clip_norm=45.0, schedule__peak=3.92e-3, epochs=100)
    + numbers("MeriDK/AstroM3, src/dataset.py", method__towers__spectrum__length=2_575),
    "byol:recipe": numbers(BYOL + "configs/byol.py",
        method__projector__widths=(4_096, 256), method__predictor__widths=(4_096, 256),
        method__projector__momentum=0.9, method__projector__epsilon=1e-5, method__image__norm__momentum=0.9,
        method__teacher__momentum__start=0.996, optimizer__weight_decay__value=1.5e-6, optimizer__trust=1e-3,
        optimizer__momentum=0.9, schedule__peak=0.2 * 16, schedule__warmup_steps=10 * 1_281_167 // 4_096)
    + numbers(BYOL + "main_loop.py", data__batch_size=4_096, epochs=1_000)
    + numbers(BYOL + "utils/schedules.py", method__teacher__momentum__end=1.0, schedule__end=0.0)
    + numbers(BYOL + "utils/networks.py", method__projector__bias=False, method__predictor__bias=False)
    + numbers(BYOL + "utils/dataset.py", views__1__scale=(0.08, 1.0), views__1__size=224)
    + numbers(BYOL + "utils/augmentations.py",
        views__3__brightness=0.4, views__3__contrast=0.4, views__3__saturation=0.2, views__3__hue=0.1, views__3__p=0.8,
        views__4__p=0.2, views__5__p=1.0, views__11__p=0.1, views__12__p=0.2, views__12__threshold=0.5),
    "byol:recipe_100": numbers(BYOL + "configs/byol.py",
        method__teacher__momentum__start=0.99, optimizer__weight_decay__value=1e-6, schedule__peak=0.45 * 16,
        epochs=100),
    "cae:recipe": numbers(CAE + "scripts/cae_base_800e.sh",
        data__batch_size=4 * 8 * 64, schedule__peak=1.5e-3, schedule__warmup_steps=20 * (1_281_167 // 2_048),
        epochs=800, optimizer__clip_norm=3.0, method__encoder__layer_scale=0.1, method__encoder__stochastic_depth=0.1,
        method__encoder__pixels=PixelNorm.imagenet(), method__regressor__depth=4, method__decoder__depth=4,
        method__regressor__layer_scale=0.1, method__decoder__layer_scale=0.1, views__2__share=(98 / 196, 98 / 196),
        objective__features__weight__value=2.0)
    + numbers(CAE + "tools/run_pretraining.py",
        views__0__size=224, views__0__scale=(0.08, 1.0), views__2__smallest=16, optimizer__weight_decay__value=0.05,
        optimizer__eps=1e-8, optimizer__b2=0.999, schedule__end=1e-5)
    + numbers(CAE + "models/modeling_cae.py and models/modeling_cae_helper.py",
        method__encoder__width=768, method__encoder__depth=12, method__encoder__heads=12,
        method__encoder__norm_epsilon=1e-6, method__encoder__key_bias=False, method__encoder__positions="sincos",
        method__regressor__width=768, method__regressor__stochastic_depth=0.1, method__decoder__width=768,
        method__decoder__stochastic_depth=0.1, method__decoder__project=False)
    + numbers(CAE + "furnace/masking_generator.py and furnace/optim_factory.py",
        views__2__shape=0.3, optimizer__rules__0__path="image/class_token", optimizer__rules__0__factor=1.0,
        optimizer__rules__1__path="regressor/query"),
    "cae:large": numbers(CAE + "scripts/cae_large_1600e.sh",
        epochs=1_600, schedule__warmup_steps=40 * (1_281_167 // 2_048), method__encoder__layer_scale=1e-5,
        method__encoder__depth=24, method__regressor__width=1_024, method__regressor__heads=16,
        method__regressor__layer_scale=1e-5, method__decoder__layer_scale=1e-5),
    "clip:recipe": numbers(CLIP,
        method__towers__image__width=768, method__towers__image__norm_epsilon=1e-5,
        method__towers__image__embed_norm=True, method__towers__image__activation="quick_gelu",
        method__towers__image__stem__bias=False, method__towers__text__activation="quick_gelu",
        method__towers__text__causal=True, method__scale__init=1 / 0.07)
    + numbers(AS_STATED + "tables 18 and 20",
        data__batch_size=32_768, method__scale__max=100, optimizer__b2=0.98, optimizer__eps=1e-6,
        optimizer__weight_decay__value=0.2, schedule__peak=5e-4, schedule__warmup_steps=2_000),
    "clipa:small": numbers(CLIPA + "configs/model_b/64_32_pre_training.py",
        data__batch_size=1_024 * 16 * 2, data__train__image_size=64,
        data__train__crop=HostRandomResizedCrop(scale=(0.4, 1.0)), data__tokenizer__length=32, method__dim=512,
        method__towers__image__positions="sincos", method__towers__image__pool="cls", method__towers__text__pool="eos",
        method__scale__init=1 / 0.07, optimizer__b1=0.9, optimizer__b2=0.95, optimizer__weight_decay__value=0.2,
        schedule__peak=8e-6 * 64 * 2, schedule__warmup_steps=3_200 // 2, examples=7 * 400_000_000)
    + numbers(CLIPA + "models/vit.py and models/text_transformer.py",
        method__towers__image__width=768, method__towers__image__stem__bias=False,
        method__towers__image__activation="gelu_tanh", method__towers__text__width=512, method__towers__text__heads=8,
        method__towers__text__causal=False, method__towers__text__end="never"),
    "clipa:recipe": numbers(CLIPA + "configs/model_b/unmask_tuning.py",
        data__train__image_size=224, schedule__peak=8e-7 * 64 * 2, schedule__warmup_steps=1_600 // 2,
        examples=4_000 * 32_768),
    "clipa:h14_small": numbers(CLIPA + "configs/model_h/84_8_pre_training.py",
        data__batch_size=65_536, data__train__source__image_size=84, data__train__words=8 - 1,
        data__train__keep="syntax", data__tokenizer__length=8, method__dim=1_024, method__towers__image__pool="mean",
        views__0__brightness=0.8 * 0.4, views__0__hue=0.2 * 0.4, schedule__peak=8e-6 * (65_536 // 256),
        schedule__warmup_steps=3_200, examples=1_281_167 * 10_000)
    + numbers(CLIPA + "models/vit.py and models/text_transformer.py",
        method__towers__image__depth=32, method__towers__image__heads=16, method__towers__text__width=1_024,
        method__towers__text__depth=24, method__towers__text__heads=16),
    "clipa:h14_224": numbers(CLIPA + "configs/model_h/unmask_tuning_224_scheduleX4.py",
        data__batch_size=32_768, data__train__image_size=224, data__tokenizer__length=32,
        method__towers__image__patch_dropout=0.3, schedule__peak=4e-7 * 128,
        schedule__warmup_steps=26_214_400 // 32_768, examples=131_072_000 * 4),
    "clipa:h14": numbers(CLIPA + "configs/model_h/unmask_tuning_336_scheduleX1.py",
        data__batch_size=16_384, data__train__image_size=336, method__towers__image__patch_dropout=0.4,
        schedule__peak=1e-7 * 64, schedule__warmup_steps=26_214_400 // 16_384, examples=131_072_000),
    "clipa:flip_50": numbers(FLIP + "configs/default.py and configs/cfg_flip_large.py",
        data__batch_size=65_536, data__tokenizer__length=32, data__train__crop=HostRandomResizedCrop(scale=(0.5, 1.0)),
        method__towers__image__width=1_024, method__towers__image__depth=24, method__towers__image__heads=16,
        method__towers__image__stem__patch=16, method__towers__image__patch_dropout=0.5,
        method__towers__image__positions="sincos", method__towers__text__width=768, method__towers__text__depth=12,
        method__towers__text__heads=12, method__dim=768, optimizer__b2=0.95, optimizer__weight_decay__value=0.2,
        schedule__peak=4e-6 * 256, schedule__warmup_steps=20 * 19, examples=10_000 * 19 * 65_536)
    + numbers(FLIP + "models_flip.py", method__scale__init=1 / 0.07, method__scale__max=100,
        method__towers__image__pool="mean", method__towers__text__pool="cls", method__towers__image__norm_epsilon=1e-6),
    "clipa:flip": numbers(FLIP + "README.md, section 2",
        method__towers__image__patch_dropout=0.0, schedule__peak=4e-8 * 256, schedule__warmup_steps=20 * 19,
        examples=100 * 19 * 65_536),
    "contrastive_gap:recipe": numbers(AS_STATED + "the authors' released configuration",
        data__batch_size=64, method__scale__init=100.0, method__scale__trainable=False,
        objective__uniformity_image__weight__value=0.5, objective__uniformity_text__weight__value=0.5,
        optimizer__b2=0.99, optimizer__weight_decay__value=0.1, schedule__peak=1e-6, epochs=9),
    "coop:recipe": numbers("KaiyangZhou/CoOp, configs/trainers/CoOp/vit_b16_ep50.yaml",
        data__batch_size=32, data__train__source__image_size=224, method__image__pixels=PixelNorm.clip(),
        schedule__peak=2e-3, schedule__held=1e-5,
        schedule__warmup_steps=500,  # one epoch
        epochs=50)
    + numbers("KaiyangZhou/Dassl.pytorch, dassl/config/defaults.py and dassl/data/transforms/transforms.py",
        data__train__source__crop=WHOLE, optimizer__momentum=0.9, optimizer__weight_decay__value=5e-4),
    "dino:recipe": numbers(DINO + "main_dino.py",
        data__batch_size=64 * 8, views__1__size=224, views__1__scale=(0.4, 1.0), views__12__count=8, views__13__size=96,
        views__13__scale=(0.05, 0.4), views__3__brightness=0.4, views__3__contrast=0.4, views__3__saturation=0.2,
        views__3__hue=0.1, views__3__p=0.8, views__4__p=0.2, views__5__p=1.0, views__11__p=0.1, views__17__p=0.5,
        views__18__p=0.2, method__image__stochastic_depth=0.1, method__teacher__momentum__start=0.996,
        method__teacher__momentum__end=1.0, method__center__momentum=0.9, method__head__prototypes=65_536,
        method__image__pixels=PixelNorm.imagenet(), objective__dino__student_temperature=0.1,
        objective__dino__teacher_temperature__value=0.04, objective__dino__pairs="others",
        optimizer__weight_decay__start=0.04, optimizer__weight_decay__end=0.4, optimizer__clip_norm=3.0,
        optimizer__rules__1__path="head/lengths", optimizer__rules__2__factor__after=2_502,
        schedule__peak=0.0005 * 512 / 256, schedule__warmup_steps=10 * 2_502, schedule__end=1e-6, epochs=100)
    + numbers(DINO + "vision_transformer.py",
        method__image__width=384, method__image__depth=12, method__image__heads=6, method__image__norm_epsilon=1e-6,
        method__head__hidden=2_048, method__head__width=256, method__head__layers=3, method__head__norm="none"),
    "dino:v2": numbers(DINOV2,
        views__1__scale=(0.32, 1.0), views__12__count=8, views__13__size=96, views__13__scale=(0.05, 0.32),
        views__19__p=0.5, views__19__share=(0.1, 0.5), method__image__layer_scale=1e-5,
        method__image__stochastic_depth=0.3, method__head__prototypes=65_536, method__head__hidden=2_048,
        method__head__width=256, method__patch_head=None, method__teacher__momentum__start=0.992,
        objective__dino__teacher_temperature__start=0.04, objective__dino__teacher_temperature__end=0.07,
        objective__dino__teacher_temperature__steps=30 * 1_250, objective__koleo__weight__value=0.1,
        optimizer__weight_decay__start=0.04, optimizer__weight_decay__end=0.4, optimizer__clip_norm=3.0,
        optimizer__rules__2__factor=0.2, optimizer__rules__3__factor=0.9, optimizer__rules__4__factor__after=1_250,
        schedule__peak=0.004 * 2**0.5, schedule__end=1e-6, schedule__warmup_steps=10 * 1_250,
        examples=100 * 1_250 * 2_048)
    + numbers("facebookresearch/dinov2, configs/train/vitl16_short.yaml and README.md", data__batch_size=64 * 32)
    + numbers("facebookresearch/dinov2, dinov2/loss/dino_clstoken_loss.py and ibot_patch_loss.py",
        method__center__momentum=0.9, method__patch_center__momentum=0.9)
    + numbers("facebookresearch/dinov2, dinov2/models/vision_transformer.py",
        method__image__width=1_024, method__image__depth=24, method__image__heads=16,
        method__image__norm_epsilon=1e-6),
    "dreamlip:recipe": numbers(DREAMLIP,
        data__train__count=6, data__tokenizer__length=77, optimizer__b2=0.98, optimizer__eps=1e-6,
        optimizer__weight_decay__value=0.2, schedule__peak=5e-4, schedule__warmup_steps=10_000, epochs=32)
    + numbers("zyf0619sjtu/DreamLIP, open_clip/model.py and open_clip/transform.py",
        data__train__source__crop=HostRandomResizedCrop(scale=(0.9, 1.0)), method__towers__image__embed_norm=True,
        method__towers__image__stem__bias=False, method__towers__image__pixels=PixelNorm.clip(),
        method__towers__image__activation="gelu", method__towers__text__activation="gelu"),
    "grain:recipe": numbers(GRAIN + "train.py and README.md",
        data__batch_size=16 * 128, data__train__source__count=5, method__decoder__queries=5,
        method__decoder__dropout=0.1, method__scale__max=100, optimizer__b2=0.98, optimizer__eps=1e-8,
        optimizer__weight_decay__value=0.1, schedule__peak=1e-3, schedule__end=1e-5, epochs=35)
    + numbers(GRAIN + "model/box_utils.py",
        method__l1_cost=5, method__giou_cost=2, objective__l1__weight__value=1.5, objective__giou__weight__value=1.5)
    + numbers(GRAIN + "model/tfm.py and clip/custom_models.py",
        method__decoder__width=512, method__decoder__depth=6, method__decoder__heads=8,
        method__decoder__activation="relu", method__image__norm_epsilon=1e-6, method__dim=512)
    + numbers(GRAIN + "dataloaders/cub_annotated.py",
        data__train__source__source__crop=HostResize(), method__image__pixels=PixelNorm.imagenet()),
    "lit:recipe": numbers(LIT,
        data__train__crop=HostResize(), data__tokenizer__length=16, method__heads__text__bias=True, method__dim=1_024,
        method__scale__init=10.0, optimizer__clip_norm=1.0, schedule__peak=1e-3,
        schedule__warmup_steps=1_800,  # 3% of the steps
    )
    + numbers(BIG_VISION + "optax.py",
        optimizer__momentum=0.9, optimizer__decay_power=0.8, optimizer__min_factored=32, optimizer__clip_rms=0.0,
        optimizer__eps=1e-30),
    "long_clip:recipe": numbers(AS_STATED + "the released training guide",
        data__batch_size=2_048, data__tokenizer__length=248, method__scale__init=100.0,
        objective__long__label_smoothing=0.1, objective__short__count=32, optimizer__weight_decay__value=1e-2,
        schedule__peak=1e-6, schedule__warmup_steps=200, epochs=6),
    "m2mix:recipe": numbers(AS_STATED + "the authors' released scripts",
        data__batch_size=128, method__scale__init=100.0, objective__m2_mix__weight__start=0.01,
        objective__m2_mix__beta=0.2, objective__v_mix__weight__start=0.05, objective__l_mix__weight__start=0.05,
        objective__vl_mix__weight__start=0.1, optimizer__weight_decay__value=0.2, schedule__peak=1e-5, epochs=9),
    "mae:recipe": numbers(MAE + "PRETRAIN.md",
        data__batch_size=64 * 8 * 8, views__2__share=0.75, objective__pixels__patch_norm=True,
        optimizer__weight_decay__value=0.05, schedule__peak=1.5e-4 * 16, epochs=800,
        schedule__warmup_steps=40 * (1_281_167 // 4_096))
    + numbers(MAE + "main_pretrain.py", views__0__scale=(0.2, 1.0), views__0__size=224, schedule__end=0.0,
        optimizer__b1=0.9, optimizer__b2=0.95, optimizer__clip_norm=0.0, method__encoder__pixels=PixelNorm.imagenet(),
        objective__pixels__pixels=PixelNorm.imagenet())
    + numbers(MAE + "models_mae.py",
        method__encoder__width=768, method__encoder__depth=12, method__encoder__heads=12,
        method__encoder__norm_epsilon=1e-6, method__encoder__stem__patch=16, method__encoder__class_token=True,
        method__decoder__width=512, method__decoder__depth=8, method__decoder__heads=16,
        method__decoder__norm_epsilon=1e-6, method__targets__pixels=16**2 * 3, objective__pixels__kind="l2",
        objective__pixels__over="hidden")
    + numbers(MAE + "util/pos_embed.py", method__encoder__sine_endpoint=False),
    "mae:large": numbers(MAE + "models_mae.py",
        method__encoder__width=1_024, method__encoder__depth=24, method__encoder__heads=16,
        method__encoder__stem__patch=16),
    "mae:huge": numbers(MAE + "models_mae.py",
        method__encoder__width=1_280, method__encoder__depth=32, method__encoder__heads=16,
        method__encoder__stem__patch=14, method__targets__pixels=14**2 * 3, views__2__patch=14,
        objective__pixels__patch=14),
    "mae:fine_tune": numbers(MAE + "FINETUNE.md",
        data__batch_size=32 * 4 * 8, epochs=100, schedule__peak=5e-4 * 4, optimizer__rules__0__factor=0.65,
        optimizer__weight_decay__value=0.05, method__encoder__stochastic_depth=0.1, method__encoder__pool="mean")
    + numbers(MAE + "main_finetune.py",
        schedule__warmup_steps=5 * (1_281_167 // 1_024), schedule__end=1e-6, optimizer__clip_norm=0.0,
        objective__classes__label_smoothing=0.1, optimizer__b2=0.999)
    + numbers(MAE + "models_vit.py", method__encoder__pool_first=True, method__encoder__norm_epsilon=1e-6),
    "metaclip:recipe": numbers(METACLIP,
        data__batch_size=512 * 16 * 4, method__towers__image__activation="quick_gelu", schedule__peak=5e-4,
        schedule__warmup_steps=2_000, examples=32 * 400_000_000)
    + numbers("facebookresearch/MetaCLIP, src/mini_clip/transform.py",
        data__train__source__crop=HostRandomResizedCrop(scale=(0.9, 1.0))),
    "metaclip:vit_h14": numbers(METACLIP, data__batch_size=256 * 16 * 8, schedule__peak=4e-4),
    "metrix:recipe": numbers(METRIX + "main.py",
        optimizer__weight_decay__value=1e-4,
        optimizer__rules__1__factor__after=5 * 58,  # epochs of the embedding alone
        schedule__start=1e-4, schedule__factor=0.1, schedule__every=10 * 58, epochs=60)
    + numbers(METRIX + "train.py", objective__mixed__weight__value=0.4)
    + numbers(METRIX + "dataset/utils.py", data__train__image_size=224, data__train__crop=WHOLE),
    "mixed_barlow:recipe": numbers(MIXED,
        data__batch_size=1_024, method__projector__widths=(8_192, 8_192, 8_192), objective__twins__redundancy=0.0051,
        objective__mixed__redundancy=0.0051, objective__mixed__weight__end=1.0,
        objective__mixed__weight__steps=10 * 1_251, optimizer__momentum=0.9, optimizer__trust=0.001,
        optimizer__weight_decay__value=1e-6, schedule__peak=0.2 * 4, schedule__end=0.2 * 4 * 0.001,
        schedule__warmup_steps=10 * 1_251, epochs=300)
    + numbers("facebookresearch/barlowtwins, main.py",
        views__1__size=224, views__1__scale=(0.08, 1.0), views__3__brightness=0.4, views__3__contrast=0.4,
        views__3__saturation=0.2, views__3__hue=0.1, views__3__p=0.8, views__4__p=0.2, views__5__p=1.0,
        views__11__p=0.1, views__12__p=0.2),
    "moco:recipe": numbers(MOCO + "README.md", method__scale__init=1 / 0.2)
    + numbers(MOCO + "main_moco.py",
        data__batch_size=256, method__teacher__momentum__value=0.999, method__memory__size=65_536,
        method__memory__width=128, optimizer__momentum=0.9, optimizer__weight_decay__value=1e-4,
        optimizer__rules__0__factor=1.0, schedule__peak=0.03, schedule__warmup_steps=0, epochs=200,
        views__1__size=224, views__1__scale=(0.2, 1.0), views__3__brightness=0.4, views__3__contrast=0.4,
        views__3__saturation=0.4, views__3__hue=0.1, views__3__p=0.8, views__4__p=0.2, views__5__p=0.5,
        views__11__p=0.5, views__12__p=0.0)
    + numbers(MOCO + "moco/builder.py",
        method__projector__widths=(2_048, 128), method__projector__bias=True, method__projector__norm="none",
        method__shuffle=True)
    + numbers(MOCO + "README.md (a machine of eight GPUs)", method__image__norm__groups=8),
    "moco:v3": numbers(MOCO_3 + "CONFIG.md",
        method__scale__init=1 / 0.2, optimizer__weight_decay__value=0.1, schedule__peak=1.5e-4 * 16,
        schedule__warmup_steps=40 * 312, epochs=300, optimizer__rules__1__path="image/stem/**")
    + numbers(MOCO_3 + "main_moco.py",
        data__batch_size=4_096, method__teacher__momentum__start=0.99, method__teacher__momentum__end=1.0,
        views__1__scale=(0.08, 1.0), views__3__saturation=0.2, views__3__hue=0.1, views__5__p=1.0, views__11__p=0.1,
        views__12__p=0.2)
    + numbers(MOCO_3 + "moco/builder.py",
        method__projector__widths=(4_096, 4_096, 256), method__projector__last_norm=True,
        method__projector__last_gain=False, method__predictor__widths=(4_096, 256), method__predictor__last_norm=True,
        method__predictor__last_gain=False, objective__a_to_b__weight__value=2 * 0.2,
        objective__b_to_a__weight__value=2 * 0.2)
    + numbers(MOCO_3 + "vits.py",
        method__image__width=384, method__image__depth=12, method__image__heads=12, method__image__norm_epsilon=1e-6,
        method__image__stem__patch=16, method__image__positions="sincos", method__image__pool="cls"),
    "moco:v3_resnet": numbers(MOCO_3 + "main_moco.py",
        data__batch_size=4_096, method__scale__init=1.0, optimizer__weight_decay__value=1e-6, optimizer__momentum=0.9,
        schedule__peak=0.6 * 16, schedule__warmup_steps=10 * 312, epochs=100)
    + numbers(MOCO_3 + "CONFIG.md", views__1__scale=(0.2, 1.0))
    + numbers(MOCO_3 + "moco/optimizer.py", optimizer__trust=0.001)
    + numbers(MOCO_3 + "moco/builder.py",
        method__projector__widths=(4_096, 256), method__projector__last_norm=True,
        method__predictor__widths=(4_096, 256), method__predictor__last_norm=False,
        objective__a_to_b__weight__value=2.0),
    "mochi:recipe": numbers("giakoumoglou/synco, main_synco.py",
        objective__mochi__nearest=1_024, objective__mochi__start=10 * (1_281_167 // 256))
    + numbers(AS_STATED + "the paper, from memory", objective__mochi__mixed=1_024, objective__mochi__with_query=128)
    + numbers("facebookresearch/moco, main_moco.py and README.md",
        data__batch_size=256, method__memory__size=65_536, method__teacher__momentum__value=0.999,
        method__scale__init=1 / 0.2, schedule__peak=0.03, epochs=200),
    "mp3:recipe": numbers(DEIT + "main.py",
        method__encoder__stochastic_depth=0.1, optimizer__weight_decay__value=0.05, schedule__peak=5e-4 * 1_024 / 512,
        schedule__warmup_steps=5 * (1_281_167 // 1_024), schedule__end=1e-5, epochs=300, views__0__size=224)
    + numbers(DEIT + "README_deit.md", data__batch_size=4 * 256)
    + numbers("arshadshk/Position-Prediction-Pretraining-Pytorch, README.md", views__2__share=0.5),
    "mp3:speech": numbers(KWT + "train.sh",
        data__batch_size=512, method__encoder__width=192, method__encoder__depth=12, method__encoder__heads=3,
        method__encoder__mlp_ratio=768 / 192, optimizer__weight_decay__value=0.1, schedule__peak=1e-3,
        schedule__warmup_steps=10 * 72, examples=23_438 * 512)
    + numbers(KWT + "README.md and kws_streaming/models/transformer_utils.py",
        method__encoder__length=98, method__encoder__norm="post", method__encoder__norm_epsilon=1e-6),
    "mrl:recipe": numbers(AS_STATED + "section 4.1 and appendix C",
        data__batch_size=4_096, objective__matryoshka__dims=(12, 24, 48, 96, 192, 384, 768), schedule__peak=1e-3),
    "mrl:imagenet": numbers("libffcv/ffcv-imagenet, rn50_configs/rn50_40_epochs.yaml",
        data__train__image_size=160, data__batch_size=512, evals__0__data__image_size=256, method__encoder__blur=True,
        objective__d8__label_smoothing=0.1, optimizer__momentum=0.9, optimizer__weight_decay__value=1e-4, epochs=40)
    + numbers("RAIVNLab/MRL, train/train_imagenet.py",
        data__train__crop=WHOLE, method__dims=(8, 16, 32, 64, 128, 256, 512, 1024, 2048),
        optimizer__rules__0__path="classes*/bias", optimizer__rules__0__factor=1.0,
        schedule__warmup_steps=2 * 1_281_167 // 512 + 1)
    + numbers(AS_STATED + "appendix C", schedule__peak=0.475),
    "negclip:recipe": numbers(AS_STATED + "the authors' released command and the fork of open_clip that it runs",
        data__batch_size=2 * 256, data__order__k=3, schedule__peak=1e-6, schedule__warmup_steps=50, epochs=2 * 5),
    "obow:recipe": numbers(OBOW + "config/ImageNetFull/ResNet50_OBoW_full.yaml",
        data__batch_size=256, epochs=200, method__sharpness=15, method__vocabulary__size=8_192,
        method__teacher__momentum__start=0.99, objective__bags__scale=8, optimizer__momentum=0.9,
        optimizer__weight_decay__value=1e-4, optimizer__nesterov=False, schedule__peak=0.03, schedule__end=3e-5,
        schedule__warmup_steps=10 * (1_281_167 // 256), views__0__count=2, views__1__size=160,
        views__1__scale=(0.08, 0.6), views__2__brightness=0.4, views__2__contrast=0.4, views__2__saturation=0.4,
        views__2__hue=0.1, views__2__p=0.8, views__3__p=0.2, views__4__p=0.5, views__7__size=256,
        views__7__scale=(0.6, 1.0), views__11__count=5, views__12__size=96)
    + numbers(OBOW + "obow/builder_obow.py",
        method__blocks=(3 + 4 + 6 - 1, 3 + 4 + 6 + 3 - 1), method__hidden=2 * 2_048, method__vocabulary__momentum=0.99,
        method__vocabulary__distance=0.5, method__teacher__momentum__end=1.0)
    + numbers(OBOW + "obow/datasets.py", views__13__size=224),
    "pixpro:recipe": numbers(PIXPRO + "tools/pixpro_base_r50_100ep.sh",
        data__batch_size=8 * 128, epochs=100, views__1__scale=(0.08, 1.0), method__predictor__power=2,
        method__teacher__momentum__start=0.99, objective__a_to_b__radius=0.7, objective__b_to_a__radius=0.7,
        optimizer__weight_decay__value=1e-5, schedule__peak=1.0 * 8 * 128 / 256,
        schedule__warmup_steps=5 * (1_281_167 // 1_024))
    + numbers(PIXPRO + "contrast/option.py", views__1__size=224, schedule__start=4.0 / 100, optimizer__momentum=0.9)
    + numbers(PIXPRO + "contrast/lr_scheduler.py", schedule__end=1e-6)
    + numbers(PIXPRO + "contrast/lars.py", optimizer__trust=0.001, optimizer__vectors=False)
    + numbers(PIXPRO + "contrast/models/PixPro.py",
        method__projector__widths=(4_096, 256), method__projector__bias=True, method__teacher__momentum__end=1.0)
    + numbers(PIXPRO + "contrast/data/transform.py",
        views__3__brightness=0.4, views__3__contrast=0.4, views__3__saturation=0.2, views__3__hue=0.1, views__3__p=0.8,
        views__4__p=0.2, views__5__p=1.0, views__11__p=0.1, views__12__p=0.2),
    "pixpro:contrast": numbers("lucidrains/pixel-level-contrastive-learning, README.md",
        objective__a_to_b__temperature=0.3, objective__b_to_a__temperature=0.3),
    "projection_head:recipe": numbers("HobbitLong/SupContrast, README.md and main_supcon.py",
        data__batch_size=1_024, schedule__peak=0.5, method__scale__init=1 / 0.5, optimizer__weight_decay__value=1e-4,
        epochs=1_000),
    "projection_head:fixed": numbers("jiayini1119/projection-head-experiments, train_ph.py",
        method__projector__kappa=1.05),
    "projection_head:labels": numbers("HobbitLong/SupContrast, README.md and main_ce.py",
        data__batch_size=1_024, schedule__peak=0.8, optimizer__weight_decay__value=1e-4, epochs=500,
        views__0__scale=(0.2, 1.0)),
    "rad_dino:recipe": numbers(AS_STATED + "the model card",
        data__batch_size=40 * 64, data__train__image_size=518,
        method__image__pixels=PixelNorm(mean=(0.5307,) * 3, std=(0.2583,) * 3))
    + numbers(DINOV2,
        views__1__scale=(0.32, 1.0), views__10__count=8, views__11__scale=(0.05, 0.32), views__16__p=0.5,
        views__16__share=(0.1, 0.5), method__head__prototypes=65_536, method__head__hidden=2_048,
        method__head__width=256, method__teacher__momentum__start=0.992, method__teacher__momentum__end=1.0,
        objective__dino__teacher_temperature__start=0.04, objective__dino__teacher_temperature__end=0.07,
        objective__koleo__weight__value=0.1, optimizer__weight_decay__start=0.04, optimizer__weight_decay__end=0.4,
        optimizer__clip_norm=3.0, optimizer__b2=0.999, optimizer__rules__2__factor=0.2,
        optimizer__rules__3__factor=0.9, schedule__peak=0.004 * 2.5**0.5, schedule__end=1e-6)
    + numbers("facebookresearch/dinov2, dinov2/data/augmentations.py",
        views__4__p=1.0, views__9__p=0.1, views__14__p=0.5, views__15__p=0.2, views__3__brightness=0.4,
        views__3__contrast=0.4, views__3__p=0.8),
    "random_teacher:recipe": numbers(DINOPL + "configs/cifar10_distillation_v2.json",
        data__batch_size=256, method__image__stem="small", method__head__hidden=2_048, method__head__width=256,
        method__head__prototypes=65_536, method__crops=("image",), objective__same__pairs="same",
        objective__same__student_temperature=1.0, objective__same__teacher_temperature__value=1.0,
        objective__same__center="", optimizer__weight_decay__value=0.0, optimizer__clip_norm=0.0,
        schedule__value=1e-3)
    + numbers(DINOPL + "configuration.py", method__image__depths=(2, 2, 2, 2), optimizer__b1=0.9, optimizer__b2=0.999,
        epochs=100)
    + numbers(DINOPL + "datasets/cifar.py",
        method__image__pixels=PixelNorm(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261))),
    "random_teacher:half": numbers(DINOPL + "notebooks/results_icml.ipynb", method__teacher__alpha=0.5),
    "random_teacher:near": numbers(DINOPL + "notebooks/results_icml.ipynb", method__teacher__alpha=0.1),
    "rs_m_clip:recipe": numbers(AS_STATED + "SILC's crops and momentum",
        views__0__count=8, method__teacher__momentum__value=0.996),
    "simclr:recipe": numbers("google-research/simclr, README.md and run.py",
        data__batch_size=4_096, schedule__peak=0.075 * 4_096**0.5, schedule__warmup_steps=10 * (1_281_167 // 4_096),
        optimizer__weight_decay__value=1e-4, optimizer__momentum=0.9, method__scale__init=1 / 0.1,
        method__projector__widths=(2_048, 2_048, 128), method__projector__momentum=0.9, epochs=100)
    + numbers("google-research/simclr, lars_optimizer.py and data_util.py",
        optimizer__trust=0.001, views__1__scale=(0.08, 1.0), views__3__brightness=0.8, views__3__saturation=0.8,
        views__3__hue=0.2, views__3__p=0.8, views__4__p=0.2, views__5__p=0.5),
    "simclr:directclr": numbers("facebookresearch/directclr, directclr/main.py and directclr/utils.py",
        method__projector__features=360, data__batch_size=4_096, schedule__peak=4.8, schedule__end=4.8 * 0.001,
        optimizer__weight_decay__value=1e-6, method__scale__init=1 / 0.1, epochs=100, views__3__brightness=0.4,
        views__3__saturation=0.2, views__5__p=1.0, views__11__p=0.1, views__12__p=0.2),
    "simclr:supcon": numbers("HobbitLong/SupContrast, README.md, main_supcon.py and networks/resnet_big.py",
        data__batch_size=1_024, schedule__peak=0.5, schedule__start=0.01, schedule__end=0.5 * 0.1**3,
        optimizer__weight_decay__value=1e-4, optimizer__momentum=0.9, method__scale__init=1 / 0.1,
        method__projector__widths=(2_048, 128), objective__contrast__weight__value=0.1 / 0.07, epochs=1_000,
        views__1__scale=(0.2, 1.0), views__3__brightness=0.4, views__3__hue=0.1, views__4__p=0.2),
    "satmae_pp:recipe": numbers(SATMAE_PP + "README.md",
        data__batch_size=16 * 16 * 8, epochs=50, schedule__peak=1e-4 * 8, schedule__warmup_steps=20 * 348,
        views__5__share=0.75, views__5__patch=8, method__encoder__stem__patch=8, views__0__size=384,
        method__encoder__stem__groups=((0, 1, 2, 6), (3, 4, 5, 7), (8, 9)), objective__pictures__patch=8)
    + numbers(SATMAE_PP + "main_pretrain.py",
        optimizer__weight_decay__value=0.05, optimizer__b1=0.9, optimizer__b2=0.95, schedule__end=0.0)
    + numbers(SATMAE_PP + "util/datasets.py", views__0__scale=(0.6, 1.0), views__3__size=192, views__4__size=96)
    + numbers(SATMAE_PP + "engine_pretrain.py", objective__pictures__share=0.6)
    + numbers(SATMAE_PP + "models_mae_group_channels.py",
        method__encoder__width=1_024, method__encoder__depth=24, method__encoder__heads=16,
        method__encoder__norm_epsilon=1e-6, method__encoder__sine_widths=(256, 384, 384),
        method__decoder__width=512, method__decoder__depth=8, method__decoder__heads=16,
        method__decoder__sine_widths=(128, 192, 192), method__upsampler__ratio=4, method__upsampler__doublings=2),
    "satmae_pp:rgb": numbers(SATMAE_PP + "README.md",
        data__batch_size=64 * 32 * 8, epochs=800, schedule__peak=7e-4, optimizer__weight_decay__value=0.3,
        views__4__share=0.75, views__4__patch=16)
    + numbers(SATMAE_PP + "util/datasets.py",
        views__0__scale=(0.2, 1.0), views__0__size=448, views__3__size=224,
        method__encoder__pixels__mean=(0.4182, 0.4215, 0.3991), method__encoder__pixels__std=(0.2877, 0.2754, 0.2764)),
    "satmae_pp:fine_tune": numbers(SATMAE_PP + "README.md",
        data__batch_size=8 * 16 * 8, epochs=30, schedule__peak=2e-4 * 4, schedule__warmup_steps=5 * 696,
        optimizer__weight_decay__value=0.05, method__encoder__stochastic_depth=0.2, views__0__size=96)
    + numbers(SATMAE_PP + "main_finetune.py",
        optimizer__rules__0__factor=0.75, schedule__end=1e-6, objective__classes__label_smoothing=0.1,
        method__classes=62)
    + numbers(SATMAE_PP + "util/datasets_finetune.py", views__0__scale=(0.3, 1.0)),
    "siglip:recipe": numbers(AS_STATED + "algorithm 1 and section 4",
        data__batch_size=32_768, method__scale__init=10.0, method__bias__init=-10.0, optimizer__b2=0.95)
    + numbers(BIG_VISION + "models/vit.py and models/proj/image_text/",
        method__towers__image__norm_epsilon=1e-6, method__towers__image__pool="attention",
        method__towers__image__activation="gelu_tanh", method__towers__text__activation="gelu_tanh",
        method__towers__text__causal=False, method__towers__text__end="never", method__heads__text__bias=True)
    + numbers(BIG_VISION + "pp/ops_text.py and configs/proj/image_text/siglip_lit_coco.py",
        data__train__crop=HostResize(), data__tokenizer__clean="lower", data__tokenizer__pad=1,
        data__tokenizer__entries=32_000),
    "simmim:recipe": numbers(SIMMIM_800 + "pretrain__vit_base__img224__800ep.yaml",
        method__encoder__stochastic_depth=0.1, method__encoder__width=768, method__encoder__depth=12,
        method__encoder__heads=12, method__encoder__positions="relative", views__0__size=224, views__2__share=0.6,
        views__2__unit=32 // 16, epochs=800, schedule__warmup_steps=10 * (1_281_167 // 2_048),
        optimizer__weight_decay__value=0.05, optimizer__rules__1__factor__end=0.1,
        optimizer__rules__1__factor__after=700 * (1_281_167 // 2_048))
    + numbers(SIMMIM + "config.py",
        method__encoder__layer_scale=0.1, method__encoder__stem__patch=16, optimizer__clip_norm=5.0, optimizer__b1=0.9,
        optimizer__b2=0.999, optimizer__eps=1e-8)
    + numbers(SIMMIM + "config.py and README.md", data__batch_size=128 * 16)
    + numbers(SIMMIM + "main_simmim.py", schedule__peak=1e-4 * 4, schedule__start=5e-7 * 4)
    + numbers(SIMMIM + "data/data_simmim.py", views__0__scale=(0.67, 1.0), views__0__ratio=(3 / 4, 4 / 3),
        objective__pixels__pixels=PixelNorm.imagenet())
    + numbers(SIMMIM + "models/simmim.py", objective__pixels__kind="l1", method__targets__pixels=16**2 * 3,
        method__encoder__norm_epsilon=1e-6, method__decoder=None)
    + numbers(SIMMIM + "models/vision_transformer.py", method__encoder__key_bias=False,
        method__encoder__class_token=True),
    "simmim:fine_tune": numbers(SIMMIM_800 + "finetune__vit_base__img224__800ep.yaml",
        method__encoder__stochastic_depth=0.1, method__encoder__pool="mean", epochs=100,
        schedule__warmup_steps=20 * (1_281_167 // 2_048), optimizer__weight_decay__value=0.05,
        optimizer__rules__0__factor=0.65)
    + numbers(SIMMIM + "main_finetune.py", schedule__peak=1.25e-3 * 4, schedule__start=2.5e-7 * 4,
        schedule__end=2.5e-7 * 4)
    + numbers(SIMMIM + "config.py", objective__classes__label_smoothing=0.1, optimizer__clip_norm=5.0)
    + numbers(SIMMIM + "models/vision_transformer.py", method__encoder__pool_first=True),
    "simsiam:recipe": numbers(SIMSIAM + "main_simsiam.py",
        data__batch_size=512, schedule__value=0.05 * 2, optimizer__momentum=0.9, optimizer__weight_decay__value=1e-4,
        optimizer__rules__0__factor=1.0, optimizer__rules__1__path="image/**", optimizer__rules__1__factor__peak=1.0,
        optimizer__rules__2__path="projector/**", epochs=100, views__1__scale=(0.2, 1.0), views__3__saturation=0.4,
        views__3__hue=0.1, views__3__p=0.8, views__4__p=0.2, views__5__p=0.5, views__11__p=0.5, views__12__p=0.0)
    + numbers(SIMSIAM + "simsiam/builder.py",
        method__projector__widths=(2_048, 2_048, 2_048), method__projector__last_norm=True,
        method__projector__last_gain=False, method__projector__bias=False, method__predictor__widths=(512, 2_048),
        method__predictor__bias=True, method__predictor__last_norm=False),
    "stacked_autoencoders:single": numbers(STACKED,
        data__batch_size=64, epochs=10, method__encoders__spectrum__widths=(6, 4, 2),
        method__encoders__spectrum__activation="selu", method__decoder__widths=(4, 6), method__output="sigmoid",
        objective__activations__weight__value=1e-4, evals__0__clusters=7, evals__1__clusters=6)
    + numbers("tensorflow.org, r2.7, tf.keras.optimizers.Adam", schedule__value=1e-3, optimizer__eps=1e-7)
    + numbers("tensorflow.org, r2.7, tf.keras.layers.Dense",
        method__encoders__spectrum__init="glorot", method__decoder__init="glorot"),
    "stacked_autoencoders:recipe": numbers(STACKED,
        data__batch_size=16, epochs=5, method__encoders__third__widths=(15, 10, 5, 2),
        method__decoder__widths=(5, 10, 15), method__below__encoders__second__widths=(10, 5, 2),
        method__below__decoder__widths=(5, 10), method__below__below__encoders__spectrum__widths=(6, 4, 2),
        method__joined__third=("second/layers/2", "second/input"),
        method__below__joined__second=("spectrum/reconstruction", "spectrum"), evals__0__clusters=6),
    "structure_clip:recipe": numbers(AS_STATED + "the released code and script",
        data__batch_size=64, objective__contrastive__factor=0.2, objective__hinge__margin=0.1,
        objective__hinge__weight__value=5.0, optimizer__weight_decay__value=0.1, schedule__value=5e-6, epochs=10),
    "swav:recipe": numbers(SWAV + "scripts/swav_800ep_pretrain.sh",
        data__batch_size=64 * 64, views__1__size=224, views__1__scale=(0.14, 1.0), views__12__count=6,
        views__13__size=96, views__13__scale=(0.05, 0.14), method__head__prototypes=3_000, method__head__width=128,
        objective__swav__student_temperature=0.1, objective__swav__teacher_temperature__value=0.05,
        objective__swav__iterations=3, optimizer__weight_decay__value=1e-6, optimizer__rules__1__factor__after=313,
        schedule__start=0.3, schedule__peak=4.8, schedule__end=0.0048, schedule__warmup_steps=10 * 312, epochs=800)
    + numbers(SWAV + "main_swav.py",
        method__head__hidden=2_048, objective__swav__each_crop=True, objective__swav__pairs="others",
        optimizer__momentum=0.9, optimizer__trust=0.001)
    + numbers(SWAV + "src/multicropdataset.py",
        views__3__brightness=0.8, views__3__contrast=0.8, views__3__saturation=0.8, views__3__hue=0.2, views__3__p=0.8,
        views__4__p=0.2, views__5__p=0.5, views__5__sigma=(0.1, 2.0),
        method__image__pixels=PixelNorm(mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225)))
    + numbers(SWAV + "src/resnet50.py",
        method__head__norm="batch", method__head__activation="relu", method__head__layers=2,
        method__head__lengths="unit")
    + numbers("NVIDIA/apex, apex/parallel/LARC.py", optimizer__vectors=True),
    "vicreg:recipe": numbers("facebookresearch/vicreg, README.md and main_vicreg.py",
        data__batch_size=512, method__projector__widths=(8_192, 8_192, 8_192), schedule__peak=0.3 * 2,
        schedule__end=0.3 * 2 * 0.001, schedule__warmup_steps=10 * (1_281_167 // 512), optimizer__trust=0.001,
        optimizer__weight_decay__value=1e-6, objective__invariance__weight__value=25.0,
        objective__variance_a__weight__value=12.5, objective__variance_b__weight__value=12.5,
        objective__variance_a__epsilon=1e-4, objective__covariance_a__weight__value=1.0,
        objective__covariance_b__weight__value=1.0, epochs=100)
    + numbers("facebookresearch/vicreg, augmentations.py",
        views__1__scale=(0.08, 1.0), views__3__brightness=0.4, views__3__saturation=0.2, views__3__hue=0.1,
        views__5__p=1.0, views__11__p=0.1, views__12__p=0.2),
    "vicreg:recipe_1000": numbers("facebookresearch/vicreg, README.md",
        data__batch_size=2_048, schedule__peak=0.2 * 8, epochs=1_000),
    "two_d_matryoshka:recipe": numbers(TWO_D + "train_2dmse.sh",
        data__batch_size=128, data__tokenizer__length=128, method__text__pool="cls",
        objective__last__weights=(30.0, *(30 / 7,) * 7), objective__sampled__term__weights=(30.0, *(30 / 7,) * 7),
        schedule__peak=5e-5, schedule__warmup_steps=50, epochs=10)
    + numbers(TWO_D + "angle_emb/angle.py", method__scale__init=20.0),
}  # fmt: skip


@pytest.mark.parametrize("target", TABLE)
def test_recipe_has_the_numbers_of_its_sources(target: str):
    held = dict(walk(load(target).recipe))
    wrong = {
        number.path: (held.get(number.path, "no such path"), number)
        for number in TABLE[target]
        if number.path not in held or not equal(held[number.path], number.value)
    }
    assert not wrong
    assert all(number.source for number in TABLE[target])


def equal(held: Any, value: Any) -> bool:
    """Compare numbers up to the rounding of a product."""
    return np.allclose(held, value, rtol=1e-9) if isinstance(value, float) else held == value


def test_every_experiment_has_numbers_with_their_sources():
    files = list_experiments(Path(__file__).parents[1] / "experiments")
    recipes = {file.name for file in files if file.folder != "evaluation"}
    assert {target.partition(":")[0] for target in TABLE} == recipes


def test_initial_values_of_the_image_tower_have_the_deviations_of_clip():
    """Positions and the class token have width ** -0.5 in openai/CLIP, clip/model.py."""
    spec = ViT(width=256, depth=1, heads=4).as_clip()
    tower = jax.jit(lambda: nnx.state(spec.build(nnx.Rngs(0), inputs=Field((224, 224, 3), "uint8"))))()
    for name, tolerance in (("positions", 0.02), ("class_token", 0.2)):
        np.testing.assert_allclose(np.std(tower[name][...]), 256**-0.5, rtol=tolerance)
