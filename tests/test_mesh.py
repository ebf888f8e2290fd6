"""A recipe on any mesh is the recipe: rules lay out what they should, and a step has the loss and gradients of one
device."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxrep import mesh as meshes
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.layers import MLP
from jaxrep.encoders.remat import in_parts
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.errors import UsageError
from jaxrep.losses.pairwise import reduce
from jaxrep.mesh import ROWS, Mesh, Shard, local_rows, look_up, put_batch, shardings, shared_parts
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import LogitBias
from jaxrep.objectives.contrastive import Sigmoid
from jaxrep.paths import flatten
from jaxrep.plan.collectives import by_kind, count_collectives
from jaxrep.plan.plan import plan
from jaxrep.step import grad_cache
from jaxrep.step.train_step import kept_outputs
from tests.helpers import harness
from tests.helpers.harness import QUICK, RECIPE, batch, drawn, tiny

TRANSFORMER: Any = ViT(width=8, depth=2, heads=2, gated=True, stem=PatchStem(patch=4))
VIT = RECIPE.replace(method=DualEncoder(towers={"image": TRANSFORMER, "text": tiny.Ids()}, dim=4))
MIXED = Mesh(data=2, fsdp=2, tensor=2, min_shard_size=1)


@functools.cache
def traced():
    return harness.traced(VIT)


# The layer axis, first in every shape of a block, is split by nothing.
LAYOUT = {
    "image/blocks/attention/query/kernel": ((2, 8, 2, 4), P(None, "fsdp", "tensor", None)),
    "image/blocks/attention/key/kernel": ((2, 8, 2, 4), P(None, "fsdp", "tensor", None)),
    "image/blocks/attention/value/kernel": ((2, 8, 2, 4), P(None, "fsdp", "tensor", None)),
    "image/blocks/attention/query/bias": ((2, 2, 4), P(None, "tensor", None)),
    "image/blocks/attention/out/kernel": ((2, 2, 4, 8), P(None, "tensor", None, "fsdp")),
    "image/blocks/attention/out/bias": ((2, 8), P(None, None)),
    "image/blocks/mlp/up/kernel": ((2, 8, 32), P(None, "fsdp", "tensor")),
    "image/blocks/mlp/gate/kernel": ((2, 8, 32), P(None, "fsdp", "tensor")),
    "image/blocks/mlp/up/bias": ((2, 32), P(None, "tensor")),
    "image/blocks/mlp/down/kernel": ((2, 32, 8), P(None, "tensor", "fsdp")),
    "image/blocks/mlp/down/bias": ((2, 8), P(None, "fsdp")),
    "image/blocks/norm1/scale": ((2, 8), P(None, "fsdp")),
    "image_head/kernel": ((8, 4), P("fsdp")),
    "scale/log": ((), P()),
}


@pytest.mark.parametrize("path", LAYOUT)
def test_heads_and_hidden_widths_lie_over_tensor_and_the_rest_over_fsdp(path):
    shape, layout = LAYOUT[path]
    assert traced().arrays[path].shape == shape
    assert MIXED.layout(path, shape) == layout


def test_small_parameters_are_whole_unless_a_rule_names_them():
    bias, norm = "image/blocks/mlp/up/bias", "image/blocks/norm1/scale"
    usual = Mesh(fsdp=2, tensor=2)
    assert usual.layout(norm, (2, 8)) == P()
    assert usual.layout(bias, (2, 32)) == P(None, "tensor")
    assert usual.layout("image/blocks/mlp/up/kernel", (2, 8, 32)) == P(None, None, "tensor")
    named = Mesh(fsdp=2, rules=(Shard(path="**/up/*", axes=("fsdp",)), Shard(path="**", axes=())))
    assert named.layout(bias, (2, 32)) == P(None, "fsdp")
    assert named.layout("image/blocks/mlp/up/kernel", (2, 512, 2048)) == P(None, None, "fsdp")
    assert named.layout("image_head/kernel", (1024, 1024)) == P(None, None)


def test_without_tensor_the_largest_axis_that_fsdp_divides_is_split_and_that_of_the_layers_never():
    usual = Mesh(fsdp=4)
    assert usual.layout("image/blocks/mlp/up/kernel", (24, 1024, 4096)) == P(None, None, "fsdp")
    assert usual.layout("image/stem/kernel", (14, 14, 3, 1024)) == P(None, None, None, "fsdp")
    assert usual.layout("text/embedding", (49408, 768)) == P(None, "fsdp")  # for look_up
    assert usual.layout("text/embedding", (49408, 770)) == P("fsdp")
    assert usual.layout("text/blocks/embedding", (12, 49408, 768)) == P(None, "fsdp")
    assert usual.layout("image/blocks/odd", (4, 333, 333)) == P()


@pytest.mark.parametrize(
    ("mesh", "sentence"),
    [
        (
            Mesh(rules=(Shard(path="imag/**", axes=("fsdp",)),)),
            r"mesh.rules: pattern 'imag/\*\*' names no parameter; the nearest are image/\*\*",
        ),
        (
            Mesh(tensor=3, data=1),
            r"mesh.tensor is 3, which does not divide axis \d of 'image/blocks/attention/\w+/\w+', whose shape is .*: "
            r"take a divisor of 2, or lay it otherwise by mesh.rules",
        ),
        (
            Mesh(fsdp=5, rules=(Shard(path="image_head/kernel", axes=("fsdp", "")),)),
            r"mesh.fsdp is 5, which does not divide axis 0 of 'image_head/kernel', whose shape is \(8, 4\)",
        ),
        (
            Mesh(rules=(Shard(path="image/blocks/norm1/scale", axes=("", "fsdp")),)),
            "'image/blocks/norm1/scale' splits 2 axes, and 'image/blocks/norm1/scale' has 1 without that of its layers",
        ),
    ],
)
def test_rules_that_do_not_fit_are_one_sentence(mesh, sentence):
    with pytest.raises(UsageError, match=sentence) as told:
        mesh.check(traced().arrays)
    assert "\n" not in str(told.value)


def test_a_plan_tells_a_rule_that_names_nothing_before_it_compiles():
    with pytest.raises(UsageError, match=r"mesh.rules: pattern 'imag/kernel' names no parameter"):
        plan(RECIPE.replace(mesh=Mesh(rules=(Shard(path="imag/kernel", axes=("fsdp",)),))), jax.devices()[:1])


def test_a_mesh_that_does_not_fit_the_devices_is_one_sentence():
    with pytest.raises(UsageError, match=r"data=-1, fsdp=3, tensor=2 does not fit 8 devices: the product of the axes"):
        Mesh(fsdp=3, tensor=2).build()


# Rows


def test_rows_of_this_process_cover_its_devices():
    for spec in (ROWS, P()):
        assert local_rows(jax.NamedSharding(MIXED.build(), spec), 8) == slice(0, 8)


@pytest.mark.parametrize("devices, expected", [((0, 1), slice(0, 4)), ((2, 3), slice(4, 8)), ((0, 2), None)])
def test_a_process_reads_the_rows_that_its_devices_hold(devices, expected):
    held = {device: (slice(2 * device, 2 * device + 2),) for device in devices}

    class OfAPod:
        def addressable_devices_indices_map(self, shape):
            return held

    if expected:
        assert local_rows(OfAPod(), 8) == expected
    else:
        with pytest.raises(ValueError, match=r"separate ranges of rows, \[\(0, 2\), \(4, 6\)\]"):
            local_rows(OfAPod(), 8)


class Device(NamedTuple):
    process_index: int
    number: int


@pytest.mark.parametrize(
    ("hosts", "parts", "shared"),
    [(1, 8, 0), (2, 8, 0), (4, 8, 0), (8, 8, 0), (3, 8, 2), (6, 8, 4), (16, 8, 8), (2, 1, 1), (1, 1, 0), (4, 0, 0)],
)
def test_parts_of_a_batch_that_several_hosts_read_are_counted(hosts, parts, shared):
    class OfAPod:
        def devices_indices_map(self, shape):
            """Two devices per host, each with its rows; and one more per host with the rows of the first."""
            rows = shape[0] // (2 * hosts)
            own = {Device(n // 2, n): (slice(n * rows, (n + 1) * rows),) for n in range(2 * hosts)}
            return own | {Device(n, -1 - n): own[Device(n, 2 * n)] for n in range(hosts)}

    assert shared_parts(OfAPod(), 96, parts) == shared


def test_hosts_with_the_same_rows_share_all_parts():
    class OfATensorAxis:
        def devices_indices_map(self, shape):
            return {Device(n, n): (slice(None),) for n in range(2)}

    assert shared_parts(OfATensorAxis(), 96, 8) == 8


def test_put_lays_out_every_array_by_rows():
    given = {"image": np.ones((8, 4, 4, 3), np.uint8), "label": np.arange(8, dtype=np.int32)}
    sharding = jax.NamedSharding(MIXED.build(), ROWS)
    placed = put_batch(given, sharding, 8)
    for name, values in given.items():
        assert placed[name].dtype == values.dtype and placed[name].sharding == sharding
        np.testing.assert_array_equal(placed[name], values)


# A step on a mesh


def gradients(recipe, mesh, size):
    """(loss, gradients by path) of one batch on a mesh, as ``recipe.mesh`` lays out the parameters."""
    found = harness.traced(recipe)
    params = {path: 0.3 * value for path, value in drawn(found.arrays).items()}
    of, keep = found.computation, kept_outputs(recipe)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(params, batch):
        args = (params, {}, batch, harness.ctx())
        if size:
            return grad_cache.value_and_grad(of, *args, size=size, keep=keep)
        return of.value_and_grad(*args)

    rows = jax.NamedSharding(mesh, ROWS)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings(mesh, recipe.mesh, params)), jax.device_put(batch(), rows)
        (loss, *_), found = jax.device_get(both(*placed))
    return loss, found


@functools.cache
def on_one(objective):
    recipe = VIT if objective == "contrastive" else SIGMOID
    return gradients(recipe.replace(mesh=Mesh()), Mesh().build(jax.devices()[:1]), 0)


TEXTS = VIT.replace(
    method=DualEncoder(
        towers={"image": TRANSFORMER, "text": TextTransformer(width=8, depth=2, heads=2, activation="relu")}, dim=4
    )
)


FSDP = Mesh(data=2, fsdp=4, min_shard_size=1)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        pytest.param(FSDP, 4, id="fsdp-4"),
        pytest.param(MIXED, 0, id="tensor-0"),
        pytest.param(FSDP, 0, id="fsdp-0", marks=pytest.mark.slow),
        pytest.param(MIXED, 4, id="tensor-4", marks=pytest.mark.slow),
    ],
)
def test_gathering_kernels_once_and_looking_up_by_columns_changes_no_number(spec, size, monkeypatch):
    """Whole steps, beside those in which the compiler chooses both."""
    recipe, devices = TEXTS.replace(mesh=spec), spec.build()
    assert spec.layout("text/embedding", harness.traced(recipe).arrays["text/embedding"].shape) == P(None, "fsdp")
    loss, found = gradients(recipe, devices, size)
    monkeypatch.setattr(meshes, "axis_size", lambda axis: 1)
    expected, by_path = gradients(recipe, devices, size)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for path, leaf in by_path.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-6 * max(1, np.abs(leaf).max()), err_msg=path)


def test_without_fsdp_a_step_is_the_program_that_it_was(monkeypatch):
    spec = Mesh(data=4, tensor=2, min_shard_size=1)

    def program():
        recipe = TEXTS.replace(mesh=spec)
        found = harness.traced(recipe)
        with jax.set_mesh(spec.build()):
            of = jax.jit(lambda params, batch: found.computation.value_and_grad(params, {}, batch, harness.ctx()))
            return of.lower(found.arrays, batch()).as_text()

    with_rules = program()
    monkeypatch.setattr(meshes, "axis_size", lambda axis: 1)
    assert program() == with_rules


@pytest.mark.parametrize("spec", [Mesh(data=2, fsdp=4), MIXED], ids=["fsdp", "tensor"])
def test_look_up_exchanges_rows_of_text_and_no_vocabulary(spec):
    """Values as they are in the table; the gradient is the sum over tokens, in float64; repeated ids included."""
    rng = np.random.default_rng(0)
    table, ids = rng.normal(size=(300, 8)).astype(np.float32), rng.integers(0, 7, (16, 5))
    pull = rng.normal(size=(16, 5, 8)).astype(np.float32)
    devices = spec.build()
    columns, rows = jax.NamedSharding(devices, P(None, "fsdp")), jax.NamedSharding(devices, ROWS)

    @functools.partial(jax.jit, out_shardings=(rows, columns))
    def both(table, ids, pull):
        found, back = jax.vjp(lambda table: look_up(table, ids), table)
        return found, back(pull)[0]

    with jax.set_mesh(devices):
        args = jax.device_put(table, columns), jax.device_put(ids, rows), jax.device_put(pull, rows)
        compiled = both.lower(*args).compile()
        found, gradient = jax.device_get(compiled(*args))
    np.testing.assert_array_equal(found, table[ids])
    expected = np.zeros(table.shape)
    np.add.at(expected, ids, pull)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)
    moved = by_kind(count_collectives(compiled.as_text()))
    tokens = 16 * 5 // spec.data
    assert moved["all-gather"].bytes <= 8 * tokens  # ids
    assert moved["all-to-all"].bytes <= 2 * 4 * tokens * 8 // spec.fsdp
    assert moved["all-reduce"].bytes <= table.nbytes // spec.fsdp  # of the gradient, over data


@pytest.mark.parametrize("spec", [Mesh(data=4, fsdp=2, min_shard_size=1), MIXED], ids=["fsdp", "tensor"])
def test_an_mlp_in_parts_of_the_rows_changes_no_number_and_its_gradient_is_summed_once(spec):
    width, rows = 16, 32
    module = MLP(nnx.Rngs(0), width, 64, activation="gelu", up_std=0.2, down_std=0.2)
    graph, params = nnx.split(module)
    x = np.random.default_rng(1).normal(size=(rows, 3, width)).astype(np.float32)
    devices = spec.build()

    def both(parts):
        def value(params, x):
            return jnp.sum(in_parts(nnx.merge(graph, params), parts, x) ** 2)

        with jax.set_mesh(devices):
            by_path = {f"mlp/{path}": leaf[...] for path, leaf in flatten(params).items()}
            places = shardings(devices, spec, by_path)
            ordered = jax.tree.unflatten(jax.tree.structure(params), [places[path] for path in by_path])
            args = jax.device_put(params, ordered), jax.device_put(x, jax.NamedSharding(devices, ROWS))
            outs = (jax.NamedSharding(devices, P()), (ordered, args[1].sharding))
            compiled = jax.jit(jax.value_and_grad(value, (0, 1)), out_shardings=outs).lower(*args).compile()
            return jax.device_get(compiled(*args)), by_kind(count_collectives(compiled.as_text()))

    (expected, whole), (found, cut) = both(1), both(4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    moved = [sum(part.bytes for part in traffic.values()) for traffic in (cut, whole)]
    assert moved[0] <= 1.3 * moved[1], (cut, whole)


def test_look_up_in_a_loop_is_the_compilers_on_tpus_alone(monkeypatch):
    spec = Mesh(fsdp=8)

    def of(in_loop):
        with jax.set_mesh(spec.build()):
            shapes = jax.ShapeDtypeStruct((300, 8), "float32"), jax.ShapeDtypeStruct((16, 5), "int32")
            return str(jax.make_jaxpr(lambda table, ids: look_up(table, ids, in_loop=in_loop))(*shapes))

    assert "all_to_all" in of(True)
    monkeypatch.setattr(meshes, "platform", lambda: "tpu")
    assert "all_to_all" in of(False) and "all_to_all" not in of(True)


SIGMOID = VIT.replace(
    method=DualEncoder(towers={"image": TRANSFORMER, "text": tiny.Ids()}, dim=4, bias=LogitBias(init=-1.0)),
    objective={"sigmoid": Sigmoid("image", "text")},
)


@pytest.mark.parametrize(
    ("way", "size", "objective"), [("gather", 0, "contrastive"), ("ring", 4, "contrastive"), ("ring", 0, "sigmoid")]
)
def test_on_data_fsdp_and_tensor_a_step_has_the_loss_and_gradients_of_one_device(way, size, objective, monkeypatch):
    monkeypatch.setattr(reduce, "GATHER_BYTES", 2**28 if way == "gather" else 0)
    recipe = (VIT if objective == "contrastive" else SIGMOID).replace(mesh=MIXED)
    (loss, found), (expected, by_path) = gradients(recipe, MIXED.build(), size), on_one(objective)
    # Sums over rows, heads and hidden widths are taken in parts, in float32: a few units in the last place.
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
    assert found.keys() == by_path.keys()
    for path, leaf in by_path.items():
        np.testing.assert_allclose(found[path], leaf, rtol=2e-5, atol=2e-6 * max(1.0, np.abs(leaf).max()), err_msg=path)
