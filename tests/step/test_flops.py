"""Operations counted by hand."""

from dataclasses import replace
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxrep.encoders import PatchStem, ViT
from jaxrep.encoders.attention import cudnn_attention
from jaxrep.encoders.attention_pallas import pallas_attention
from jaxrep.encoders.attention_splash import splash_attention
from jaxrep.mesh import Mesh as MeshSpec
from jaxrep.methods import DualEncoder
from jaxrep.recipe import Recipe
from jaxrep.step.flops import StepFlops, count_flops, peak_flops
from jaxrep.step.shapes import trace_shapes
from jaxrep.step.train_state import abstract_state
from jaxrep.step.train_step import abstract_batch, step_flops, trace_step
from tests.helpers.attention_kernels import as_if_cudnn, as_if_on_tpu
from tests.helpers.harness import RECIPE

X, W = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 16), jnp.float32)
ONE = 2 * 8 * 16 * 16


def test_a_product_is_a_multiplication_and_an_addition_a_term():
    assert count_flops(lambda x, w: jnp.tanh(x @ w) + 1, X, W) == ONE
    batched = jax.ShapeDtypeStruct((5, 8, 3, 4), jnp.float32), jax.ShapeDtypeStruct((5, 7, 3, 4), jnp.float32)
    assert count_flops(lambda q, k: jnp.einsum("bnhd,bmhd->bhnm", q, k), *batched) == 2 * 5 * 3 * 8 * 7 * 4


def test_a_scan_counts_as_often_as_it_runs_and_a_nested_one_too():
    def inner(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

    assert count_flops(jax.jit(inner), X, W) == 7 * ONE
    assert count_flops(lambda x, w: jax.lax.fori_loop(0, 3, lambda _, x: inner(x, w), x), X, W) == 21 * ONE


def test_the_gradient_of_a_chain_of_products_costs_twice_the_value_on_top_of_it():
    def chain(x, *weights):
        for w in weights:
            x = jnp.tanh(x @ w)
        return jnp.sum(x)

    assert count_flops(jax.value_and_grad(chain, argnums=(0, 1, 2, 3)), X, W, W, W) == 3 * count_flops(
        chain, X, W, W, W
    )
    # With rematerialization the forward pass comes again.
    remat = jax.checkpoint(chain)
    assert count_flops(jax.value_and_grad(remat, argnums=(0, 1, 2, 3)), X, W, W, W) == 4 * 3 * ONE


@pytest.mark.parametrize("groups", (1, 4))
def test_a_convolution_costs_a_kernel_an_output(groups):
    image = jax.ShapeDtypeStruct((2, 10, 10, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 8 // groups, 12), jnp.float32)

    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    assert count_flops(convolve, image, kernel) == 2 * (2 * 8 * 8 * 12) * (3 * 3 * 8 // groups)


def test_of_branches_the_dearest_counts():
    def choose(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    assert count_flops(choose, X, W) == 2 * ONE


def test_a_function_with_a_derivative_of_its_own_counts_what_it_does():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
    assert count_flops(product, X, W) == ONE
    assert count_flops(jax.grad(lambda x, w: jnp.sum(product(x, w)), argnums=(0, 1)), X, W) == 3 * ONE


def test_a_piece_for_each_device_counts_for_all_of_them():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "fsdp"))
    split = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(P(("data", "fsdp")), P()), out_specs=P(("data", "fsdp"))
    )
    assert count_flops(split, X, W) == ONE


# Utilization


def step_flops_of(recipe: Recipe) -> StepFlops:
    """The operations of a recipe's step, traced on one device."""
    shapes = trace_shapes(recipe)
    updater, mesh = shapes.updater(recipe), recipe.mesh.build(jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = abstract_state(recipe, shapes, updater, mesh)
        step = trace_step(recipe, shapes, updater, 10, state, abstract_batch(shapes, mesh))
    return step_flops(recipe, shapes, step)


TEXT = cast(DualEncoder, RECIPE.method).towers["text"]
LINEAR = RECIPE.replace({"log.embedding_metrics": False})
# Per image: four patches of 48 numbers through a matrix [48, 6], then the head [6, 4]. Per text: the weighted mean of
# six embeddings of six numbers, then the head [6, 4].
FORWARD = 8 * 2 * (4 * 48 * 6 + 6 * 4 + 6 * 6 + 6 * 4)


def test_model_flops_are_three_forward_passes_counted_by_hand():
    found = step_flops_of(LINEAR)
    assert (found.model, found.type) == (3 * FORWARD, "float32")
    assert step_flops_of(LINEAR.replace({"data.batch_size": 16, "examples": 160})).model == 2 * found.model


def transformers(remat: Literal["none", "full"] = "none", patch_dropout: float = 0.0) -> Recipe:
    image = ViT(width=16, depth=2, heads=2, stem=PatchStem(patch=2), remat=remat, patch_dropout=patch_dropout)
    return LINEAR.replace(method=DualEncoder(towers={"image": image, "text": TEXT}, dim=4))


def test_model_flops_do_not_depend_on_what_is_computed_again():
    plain, again = step_flops_of(transformers()), step_flops_of(transformers("full"))
    parts = step_flops_of(transformers().replace(microbatch_size=4))
    assert plain.model == again.model == parts.model
    assert plain.executed < again.executed and plain.executed < parts.executed


def test_dropped_patches_are_not_counted():
    assert step_flops_of(transformers(patch_dropout=0.5)).model < 0.7 * step_flops_of(transformers()).model


def block_by_hand(tokens: int) -> int:
    """Multiplications in a block of width 16: query, key, value and output, logits and mean, an MLP of width 64."""
    return 4 * tokens * 16 * 16 + 2 * tokens * tokens * 16 + 2 * tokens * 16 * 64


def rows_by_hand(tokens: int) -> int:
    """Multiplications for a row: 16 patches of 12 numbers, two blocks, the head; the text and its head."""
    return 16 * 12 * 16 + 2 * block_by_hand(tokens) + 16 * 4 + 6 * 6 + 6 * 4


@pytest.mark.parametrize(
    ("changes", "tokens", "again"),
    [
        ({}, 17, 0),  # 16 patches and the class token
        ({"remat": "full"}, 17, 2 * (block_by_hand(17) - 17 * 16 * 64)),  # no gradient needs a block's last product
        ({"patch_dropout": 0.5}, 9, 0),
    ],
)
def test_utilization_of_a_step_counted_by_hand(changes: dict[str, Any], tokens: int, again: int):
    found, model = step_flops_of(transformers(**changes)), 3 * rows_by_hand(tokens)
    # Neither pixels nor the weights of a mean have a gradient; the loss has one product, which comes again, and two.
    executed = model - 16 * 12 * 16 - 6 * 6 + again + 4 * 8 * 4
    used = found.utilization(seconds=2.0, devices=4, kind="TPU v4")
    assert used["mfu"] == 8 * 2 * model / 2.0 / 4 / 275e12
    assert used["hfu"] == 8 * 2 * executed / 2.0 / 4 / 275e12


def test_microbatches_make_the_forward_pass_twice():
    whole, parts = step_flops_of(transformers()), step_flops_of(transformers().replace(microbatch_size=4))
    assert parts.model == whole.model == 8 * 2 * 3 * rows_by_hand(17)
    # Within a thousandth: the products of the loss, of all rows at once, are others.
    assert parts.executed - whole.executed == pytest.approx(8 * 2 * rows_by_hand(17), rel=1e-3)


def test_utilization_is_over_the_peak_of_all_devices_and_absent_where_it_is_unknown():
    flops = StepFlops(model=3e12, executed=4e12, type="bfloat16")
    found = flops.utilization(seconds=0.5, devices=4, kind="NVIDIA A100-SXM4-80GB")
    assert found == {"mfu": 3e12 / 0.5 / 4 / 312e12, "hfu": 4e12 / 0.5 / 4 / 312e12}
    assert replace(flops, type="float32").utilization(0.5, 4, "NVIDIA A100-SXM4-80GB")["mfu"] == 2 * found["mfu"]
    assert flops.utilization(0.5, 4, "cpu") == {}
    assert flops + flops == StepFlops(6e12, 8e12, "bfloat16")


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12)],
)
def test_peak_is_that_of_the_longest_name(kind: str, peak: float):
    assert peak_flops(kind) == peak


# Kernels of attention -------------------------------------------------------------------------------------------------

ROWS, TOKENS, HEADS, WIDTH = 2, 33, 4, 16
PRODUCT = 2 * ROWS * HEADS * TOKENS * TOKENS * WIDTH
"""Operations of the product of all queries with all keys."""


def attention_flops(kernel, tokens=TOKENS) -> tuple[float, float]:
    """Return the operations of attention, and those of its value and gradients."""
    x = jax.ShapeDtypeStruct((ROWS, tokens, HEADS, WIDTH), jnp.bfloat16)

    def total(query, key, value):
        return jnp.sum(kernel(query, key, value, causal=True, lengths=None).astype(jnp.float32))

    return count_flops(total, x, x, x), count_flops(jax.value_and_grad(total, argnums=(0, 1, 2)), x, x, x)


def test_the_pallas_kernel_counts_two_products_and_five_in_its_backward_pass():
    assert attention_flops(pallas_attention) == (2 * PRODUCT, (2 + 5) * PRODUCT)


def test_the_pallas_kernel_counts_as_often_on_a_mesh_as_on_one_device():
    mesh = MeshSpec(data=1, fsdp=2).build(jax.devices()[:2])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert attention_flops(pallas_attention) == (2 * PRODUCT, (2 + 5) * PRODUCT)


def test_cudnn_attention_counts_two_products_and_five(monkeypatch):
    as_if_cudnn(monkeypatch)
    assert attention_flops(cudnn_attention, 34) == tuple(n * 2 * ROWS * HEADS * 34 * 34 * WIDTH for n in (2, 7))


def test_a_kernel_that_states_nothing_counts_its_programs():
    """Splash attention pads to 128 tokens. Its backward pass makes the logits and their derivatives twice, and sums the
    outputs times their derivatives once."""
    padded = 2 * ROWS * HEADS * 128 * 128 * WIDTH
    sums = 2 * ROWS * HEADS * 128 * WIDTH
    assert attention_flops(splash_attention) == (2 * padded, (2 + 7) * padded + sums)


def test_a_step_counts_the_kernels_products_and_its_model_does_not(monkeypatch):
    """The kernel's backward pass makes the logits again: one product more for each of two blocks, as counted here."""
    plain = step_flops_of(transformers())
    as_if_on_tpu(monkeypatch)
    kernel = step_flops_of(transformers().replace({"method.towers.image.attention": "pallas"}))
    assert kernel.model == plain.model
    assert kernel.executed - plain.executed == 2 * (2 * 8 * 17 * 17 * 16)  # 8 rows, 16 patches and a class token
