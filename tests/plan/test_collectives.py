"""Collectives counted from the text of a program: every kind, as often as its loops run."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrep.plan.collectives import Traffic, by_kind, count_collectives

WIDTH, LAYERS, ROWS = 32, 5, 64
LAYER_BYTES = 4 * WIDTH * WIDTH


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))


def text(mesh, function, *places):
    """Compile a function and return its program; ``places`` are shape and sharding of each argument."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, at)) for shape, at in places]
    layouts = tuple(NamedSharding(mesh, at) for _, at in places)
    return jax.jit(function, out_shardings=layouts[0]).lower(*shapes).compile().as_text()


def count_by_kind(program):
    return by_kind(count_collectives(program))


def step(weights, rows):
    """Do a step of gradient descent through scanned layers."""

    def loss(weights):
        out, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), rows, weights)
        return jnp.mean(out**2)

    return weights - jax.grad(loss)(weights)


def test_replicated_parameters_reduce_each_gradient_once(mesh):
    traffic = count_by_kind(text(mesh, step, ((LAYERS, WIDTH, WIDTH), P()), ((ROWS, WIDTH), P("x"))))
    assert set(traffic) == {"all-reduce"}
    assert traffic["all-reduce"].bytes == LAYERS * LAYER_BYTES


def test_sharded_parameters_are_gathered_forward_and_backward(mesh):
    traffic = count_by_kind(text(mesh, step, ((LAYERS, WIDTH, WIDTH), P(None, "x")), ((ROWS, WIDTH), P("x"))))
    assert traffic["all-gather"] == Traffic(2 * LAYERS, 2 * LAYERS * LAYER_BYTES)
    reduced = traffic.get("all-reduce", Traffic()) + traffic.get("reduce-scatter", Traffic())
    assert reduced.bytes == LAYERS * LAYER_BYTES


def on_each(mesh, function):
    return jax.shard_map(function, mesh=mesh, in_specs=P("x"), out_specs=P("x"))


@pytest.mark.parametrize(
    ("kind", "function", "count"),
    [
        ("collective-permute", lambda x: jax.lax.ppermute(x, "x", [(i, (i + 1) % 8) for i in range(8)]), 1),
        ("all-to-all", lambda x: jax.lax.all_to_all(x, "x", 0, 0, tiled=True), 1),
        (
            "collective-permute",
            lambda x: jax.lax.fori_loop(
                0, 7, lambda _, x: jax.lax.ppermute(jnp.sin(x), "x", [(i, (i + 1) % 8) for i in range(8)]), x
            ),
            7,
        ),
    ],
)
def test_permutes_and_all_to_all_count_local_rows(mesh, kind, function, count):
    traffic = count_by_kind(text(mesh, on_each(mesh, function), ((ROWS, WIDTH), P("x"))))
    assert traffic == {kind: Traffic(count, count * 4 * ROWS * WIDTH // 8)}


def test_conditional_counts_the_larger_branch(mesh):
    def function(x):
        return jax.lax.cond(
            x[0, 0] > 0,
            lambda x: x * jax.lax.psum(x[:1], "x"),
            lambda x: x * jax.lax.psum(x[:2].sum(1), "x")[0],
            x,
        )

    traffic = count_by_kind(text(mesh, on_each(mesh, function), ((ROWS, WIDTH), P("x"))))
    assert traffic == {"all-reduce": Traffic(1, 4 * WIDTH)}


# The forms below are those of the TPU compiler.

TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=256

%start.1 (param.1: bf16[64,1024]) -> (bf16[64,1024], bf16[1024,1024]) {
  %param.1 = bf16[64,1024]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = (bf16[64,1024]{1,0:T(8,128)(2,1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)}) all-gather-start(%param.1), channel_id=1, dimensions={0}, frontend_attributes={chain_id="3"}
}

%done.1 (param.2: bf16[64,1024]) -> bf16[1024,1024] {
  %param.2 = bf16[64,1024]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.2 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} all-gather(%param.2), channel_id=1, dimensions={0}, frontend_attributes={chain_id="3"}
}

%condition.1 (state.1: (s32[], bf16[64,1024])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(24)
  %count = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %limit), direction=LT
}

%body.1 (state.2: (s32[], bf16[64,1024])) -> (s32[], bf16[64,1024]) {
  %state.2 = (s32[]{:T(128)}, /*index=1*/bf16[64,1024]{1,0:T(8,128)(2,1)}) parameter(0)
  %row = bf16[64,1024]{1,0:T(8,128)(2,1)} get-tuple-element(%state.2), index=1
  %begun = (bf16[64,1024]{1,0:T(8,128)(2,1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)}) fusion(%row), kind=kCustom, calls=%start.1
  %ended = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} fusion(%row), kind=kCustom, calls=%done.1
  %reduced = bf16[64,1024]{1,0:T(8,128)(2,1)} all-reduce(%row), channel_id=1, to_apply=%add
  %more = bf16[64,1024]{1,0:T(8,128)(2,1)} all-reduce(%reduced), channel_id=1, to_apply=%add
  ROOT %next = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}) tuple(%row, %row)
}

ENTRY %main (param.0: (s32[], bf16[64,1024])) -> (s32[], bf16[64,1024]) {
  %param.0 = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}) parameter(0)
  ROOT %loop = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}) while(%param.0), condition=%condition.1, body=%body.1
}
"""  # noqa: E501


def test_collective_in_several_fusions_counts_once_per_trip():
    rows = 2 * 64 * 1024
    assert count_by_kind(TPU) == {"all-gather": Traffic(24, 24 * 16 * rows), "all-reduce": Traffic(48, 48 * rows)}


GROUPS = """\
%all-reduce-scatter.1 (param.1: f32[64]) -> f32[16] {
  %param.1 = f32[64]{0} parameter(0)
  %all = f32[64]{0} all-reduce(%param.1), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %part = f32[16]{0} dynamic-slice(%all, %zero), dynamic_slice_sizes={16}
}

ENTRY %main (x: f32[64]) -> f32[16] {
  %x = f32[64]{0} parameter(0)
  %listed = f32[64]{0} all-reduce(%x), replica_groups={{0,2},{1,3},{4,6},{5,7}}, to_apply=%add
  %counted = f32[64]{0} all-reduce(%x), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  %axes = f32[64]{0} all-reduce(%x), replica_groups=mesh['a'=2,'b'=4] {'a','b':(1)2}, to_apply=%add
  %ids = f32[64]{0} all-reduce(%x), replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]) {'a'}, to_apply=%add
  %every = f32[64]{0} all-reduce(%x), replica_groups={}, to_apply=%add
  %passed = f32[64]{0} collective-permute(%x), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %kept = f32[16]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_collectives_are_counted_by_group_size():
    """A TPU's reduction of which each device keeps a part is no all-reduce, though it is written as one."""
    assert count_collectives(GROUPS) == {
        ("all-reduce", 0): Traffic(1, 256),
        ("all-reduce", 2): Traffic(2, 512),
        ("all-reduce", 4): Traffic(2, 512),
        ("collective-permute", 2): Traffic(1, 256),
        ("reduce-scatter", 4): Traffic(1, 256),
    }
