"""Every exported method: JSON, help texts, microbatches, finite outputs and gradients, and inference without draws.

A new method, or part of one, needs an example in METHODS or PARTS.
"""

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep import encoders, methods
from jaxrep.batch import INFERENCE, Batch, Field, Outputs, StepContext
from jaxrep.methods import Method
from jaxrep.methods.base import BATCH_STATS
from jaxrep.params import Structure, split
from tests.helpers.exported_specs import assert_examples_are_complete, assert_valid_with_json_and_help
from tests.helpers.harness import QUICK

VECTORS = encoders.Perceptron(widths=(6,), dropout=0.3)
SMALL: dict[str, Any] = dict(width=8, depth=1, heads=2, mlp_ratio=1.0, dropout=0.3)
TEXT = encoders.TextTransformer(**SMALL)
VIT = encoders.ViT(**SMALL, stem=encoders.PatchStem(patch=4), any_size=True)
B, L = 6, 5
HEAD = methods.PrototypeHead(prototypes=5, hidden=6, width=4)


class Example(NamedTuple):
    """Hold a method, the fields of its batches, and those of a query at inference."""

    method: Method
    training: tuple[str, ...]
    inference: tuple[str, ...] = ("image",)


CONVOLUTIONS = encoders.ResNet(depths=(1,), width=4, bottleneck=False, stem="small", norm=encoders.GroupNorm(groups=2))

AUTOENCODER = methods.Autoencoder(encoders={"image": VECTORS}, decoder=VECTORS, output="sigmoid")

METHODS = {
    "Autoencoder": Example(AUTOENCODER, ("image",)),
    "Autoencoder on another one": Example(
        methods.Autoencoder(
            encoders={"stack": VECTORS, "sound": VECTORS},
            joined={"stack": ("image/reconstruction", "image/layers/1", "sound")},
            below=AUTOENCODER,
        ),
        ("image", "sound"),
    ),
    "BagsOfWords": Example(
        methods.BagsOfWords(image=CONVOLUTIONS, blocks=(0,), hidden=5, vocabulary=methods.Vocabulary(size=2 * B)),
        ("image crops", "crops"),
        ("image crops",),
    ),
    "Classifier": Example(methods.Classifier(encoder=VECTORS, classes=3, dims=(2, 6)), ("image",)),
    "ContextAutoencoder": Example(
        methods.ContextAutoencoder(
            encoder=replace(VIT, any_size=False),
            regressor=encoders.ContextRegressor(**SMALL),
            decoder=encoders.TokenDecoder(**SMALL, mask_token=False),
            targets={"pixels": 5},
        ),
        ("image crops", "image/masked", "image/masked_index", "image/shown_index"),
        ("image crops",),
    ),
    "DistilledDualEncoder": Example(
        methods.DistilledDualEncoder(
            dual=methods.DualEncoder(
                towers={"image": VECTORS, "sound": VECTORS}, dim=4, shared_towers={"local": "image"}
            ),
            head=HEAD,
        ),
        ("image views", "sound", "local"),
    ),
    "DualEncoder": Example(
        methods.DualEncoder(
            towers={"image": VIT, "sound": VECTORS},
            dim=4,
            shared_towers={"captions": "sound"},
            heads={"sound": methods.Tanh(features=4)},
            scales={"scale_2": methods.LogitScale()},
            bias=methods.LogitBias(),
            grouping=methods.TokenGrouping(by="captions"),
        ),
        ("image crops", "sound", "captions"),
        ("image crops",),
    ),
    "GroundedDualEncoder": Example(
        methods.GroundedDualEncoder(
            image=VIT, text=VECTORS, decoder=encoders.QueryDecoder(queries=3, width=8, depth=2, heads=2), dim=4
        ),
        ("image crops", "text vectors", "region", "boxes", "region/present"),
        ("image crops",),
    ),
    "Masked": Example(
        methods.Masked(
            encoder=replace(VIT, any_size=False),
            decoder=encoders.TokenDecoder(**SMALL),
            reads="shown",
            targets={"pixels": 5, "places": 4},
        ),
        ("image crops", "image/masked", "image/masked_index", "image/shown_index"),
        ("image crops",),
    ),
    "Masked without decoder": Example(
        methods.Masked(encoder=replace(VIT, mask_token=True), reads="all", targets={"pixels": 5}, predicts="all"),
        ("image crops", "image/masked", "image/masked_index"),
        ("image crops",),
    ),
    "Masked with an upsampler": Example(
        methods.Masked(
            encoder=replace(VIT, mask_token=True), reads="all", targets={}, upsampler=encoders.Upsampler(ratio=1)
        ),
        ("image crops", "image/masked", "image/masked_index"),
        ("image crops",),
    ),
    "Masked by a context": Example(
        methods.Masked(encoder=VIT, reads="context", targets={"places": 4}, predicts="all"),
        ("image crops", "image/masked", "image/masked_index"),
        ("image crops",),
    ),
    "MixupEncoder": Example(
        methods.MixupEncoder(image=VECTORS, head=methods.Linear(features=4), level="feature", proxies=3), ("image",)
    ),
    "PromptLearner": Example(
        methods.PromptLearner(image=VECTORS, text=replace(TEXT, dropout=0.0), dim=4, context=methods.Context(tokens=2)),
        ("image",),
    ),
    "SelfDistillation": Example(
        methods.SelfDistillation(image=replace(VIT, mask_token=True), head=HEAD, patch_head=HEAD),
        ("image crops", "a", "b", *(f"{crop}/{field}" for crop in "ab" for field in ("masked", "masked_index"))),
        ("image crops",),
    ),
    "SelfDistillation with centers": Example(
        methods.SelfDistillation(
            image=replace(VIT, mask_token=True),
            head=HEAD,
            patch_head=None,
            teacher=methods.Ema(of=("image", "head")),
            center=methods.TeacherCenter(),
            patch_center=methods.TeacherCenter(of="teacher/patches"),
        ),
        ("image crops", "a", "b", *(f"{crop}/{field}" for crop in "ab" for field in ("masked", "masked_index"))),
        ("image crops",),
    ),
    "SelfDistillation without teacher": Example(
        methods.SelfDistillation(
            image=VECTORS, head=replace(HEAD, norm="batch", lengths="unit"), patch_head=None, teacher=None, hide=False
        ),
        ("image", "a vectors", "b vectors", "local"),
    ),
    "SelfDistillation by a random teacher": Example(
        methods.SelfDistillation(
            image=VECTORS,
            head=HEAD,
            patch_head=None,
            teacher=methods.RandomTeacher(of=("image", "head")),
            crops=("image",),
            hide=False,
            features="student",
        ),
        ("image",),
    ),
    "SentenceEncoder": Example(methods.SentenceEncoder(text=TEXT), ("text pair",), ("text",)),
    "Siamese": Example(
        methods.Siamese(image=VECTORS, projector=methods.Projector(widths=(5, 4))), ("image", "a vectors", "b vectors")
    ),
    "Siamese with all parts": Example(
        methods.Siamese(
            image=VECTORS,
            projector=methods.Projector(widths=(5, 4), last_norm=True),
            targets=("a", "b"),
            predictor=methods.Projector(widths=(5, 4), bias=True),
            teacher=methods.Ema(of=("image", "projector")),
            memory=methods.Queue(size=2 * B, width=4, of="b/target", ids="label"),
            scale=methods.LogitScale(),
            shuffle=True,
        ),
        ("image", "a vectors", "b vectors"),
    ),
    "Siamese of places": Example(
        methods.Siamese(
            image=CONVOLUTIONS,
            projector=methods.Projector(widths=(5, 4), bias=True),
            targets=("a", "b"),
            predictor=methods.Propagation(),
            teacher=methods.Ema(of=("image", "projector")),
            places=True,
        ),
        ("image crops", "a", "b"),
        ("image crops",),
    ),
    "SingleEncoder": Example(methods.SingleEncoder(encoder=VECTORS, head=methods.Identity()), ("image",)),
}
PARTS = (
    methods.ClassTable(classes=3),
    methods.Context(),
    methods.Ema(of=("image",)),
    methods.FirstFeatures(features=3),
    methods.Identity(),
    methods.Linear(features=4),
    methods.LogitBias(),
    methods.LogitScale(),
    methods.NoBias(),
    methods.NoTokenGrouping(),
    methods.Projector(widths=(5, 4)),
    HEAD,
    methods.Proxies(classes=3),
    methods.Propagation(),
    methods.RandomTeacher(of=("image",), alpha=0.5),
    methods.Queue(size=4, width=3, of="image"),
    methods.RunningMean(of="image"),
    methods.ScaleFeatures(kappa=1.1),
    methods.Tanh(features=4),
    methods.TeacherCenter(),
    methods.TokenGrouping(),
    methods.Vocabulary(),
)
SPECS = {type(spec).__name__: spec for spec in (*PARTS, *(example.method for example in METHODS.values()))}
every_method = pytest.mark.parametrize("name", METHODS)

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=(B, *shape)).astype(np.float32)


# Fields by name; what follows a space tells fields of one name apart.
FIELDS = {
    **{name: normal(6) for name in ("image", "sound", "text vectors", "a vectors", "b vectors")},
    **{name: normal(2, 6) for name in ("image views", "local", "captions", "region")},
    **{name: RANDOM.random((B, 8, 8, 3), np.float32) for name in ("image crops", "a", "b")},
    "crops": RANDOM.random((B, 2, 6, 6, 3), np.float32),
    **{f"{crop}/masked": RANDOM.random((B, 4)) < 0.5 for crop in "ab"},
    **{f"{crop}/masked_index": np.tile(np.array([0, 2, -1], np.int32), (B, 1)) for crop in "ab"},
    "image/masked": np.tile(np.array([True, False, True, False]), (B, 1)),
    "image/masked_index": np.tile(np.array([0, 2], np.int32), (B, 1)),
    "image/shown_index": np.tile(np.array([1, 3], np.int32), (B, 1)),
    "text": RANDOM.integers(1, 9, (B, L), dtype=np.int32),
    "text pair": RANDOM.integers(1, 9, (B, 2, L), dtype=np.int32),
    "boxes": RANDOM.uniform(0.2, 0.6, (B, 2, 4)).astype(np.float32),
    "region/present": RANDOM.random((B, 2)) < 0.7,
}
TABLES = {"classes": RANDOM.integers(1, 9, (4, L), dtype=np.int32), "classes/valid": np.ones((4, L), bool)}


def field_of(x: np.ndarray) -> Field:
    return Field(x.shape[1:], str(x.dtype), 9 if x.dtype == np.int32 else None)


def batch_of(names: tuple[str, ...], rows: slice = slice(None)) -> dict[str, Any]:
    return {name.split()[0]: FIELDS[name][rows] for name in names}


def context(rows: slice = slice(None)) -> StepContext:
    positions = np.stack([np.zeros(B), 7 + np.arange(B)], 1).astype(np.uint32)[rows]
    return StepContext(step=np.int32(1), base_key=jax.random.key(0), positions=positions, total_steps=4, batch_size=B)


@functools.cache
def built(name: str) -> tuple[Structure, dict[str, Any]]:
    """Return the structure, and arrays that are drawn without compiling the initializers."""
    inputs = {field: field_of(x) for field, x in batch_of(METHODS[name].training).items()}
    tables = {f"tables/{table}": Field(x.shape, str(x.dtype), 9) for table, x in TABLES.items()}
    build = METHODS[name].method.build
    structure, shapes = split(nnx.eval_shape(lambda: build(nnx.Rngs(0), inputs={**inputs, **tables})))
    rng = np.random.default_rng(1)
    return structure, {path: 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype) for path, leaf in shapes.items()}


@functools.cache
def training_pass(name: str) -> Any:
    """Return (gradients of a function of all outputs, per-example outputs, other outputs) of a training batch."""
    structure, arrays = built(name)
    batch = batch_of(METHODS[name].training)

    def value(params: Any) -> Any:
        module, ctx = structure.merge(arrays, params), context()
        rows = module.per_example(batch, ctx.at("rows"))
        rows.pop(BATCH_STATS, None)
        others = {**module.across_batch(rows, batch, ctx.at("join")), **module.per_step(TABLES, ctx.at("shared"))}
        others.pop(BATCH_STATS, None)
        floats = [x for x in {**rows, **others}.values() if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.sin(x) * jnp.arange(1, x.size + 1).reshape(x.shape)) for x in floats), (rows, others)

    params = {path: arrays[path] for path in structure.trainable}
    gradients, outputs = jax.jit(jax.grad(value, has_aux=True), compiler_options=QUICK)(params)
    return jax.device_get((gradients, *outputs))


def per_example(name: str, batch: Batch, ctx: StepContext) -> Outputs:
    structure, arrays = built(name)
    call = jax.jit(lambda arrays: structure.merge(arrays).per_example(batch, ctx), compiler_options=QUICK)
    return jax.device_get(call(arrays))


def test_every_exported_spec_has_an_example():
    assert_examples_are_complete(methods, SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_spec_is_valid_and_has_json_and_help(name: str):
    assert_valid_with_json_and_help(SPECS[name])


@every_method
def test_per_example_outputs_of_a_part_are_those_of_the_batch(name: str):
    rows = slice(1, 4)
    part = per_example(name, batch_of(METHODS[name].training, rows), context(rows).at("rows"))
    whole = training_pass(name)[1]
    assert part.keys() - {BATCH_STATS} == whole.keys()
    for output, x in whole.items():
        assert x.shape[0] == B
        np.testing.assert_allclose(part[output], x[rows], rtol=1e-4, atol=1e-5, err_msg=output)  # float32


@every_method
def test_outputs_and_gradients_are_finite(name: str):
    gradients, *outputs = training_pass(name)
    assert outputs[0]
    for path, x in {**gradients, **outputs[0], **outputs[1]}.items():
        assert np.isfinite(x).all(), path
    # The gradient of a key's bias is zero but for rounding: it adds the same number to all logits of a query.
    assert [path for path, x in gradients.items() if not x.any() and not path.endswith("key/bias")] == []


@every_method
def test_inference_needs_no_randomness(name: str):
    structure, arrays = built(name)
    outputs = per_example(name, batch_of(METHODS[name].inference), INFERENCE)
    assert outputs and all(np.isfinite(x).all() for x in outputs.values())
    jax.eval_shape(lambda arrays: structure.merge(arrays).per_step(TABLES, INFERENCE), arrays)


@every_method
def test_modules_of_equal_specs_have_equal_structures(name: str):
    structure, _ = built(name)
    built.cache_clear()
    again, _ = built(name)
    assert again == structure and hash(again) == hash(structure)
    assert structure.merge(built(name)[1]).spec == METHODS[name].method
