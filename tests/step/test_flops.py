"""Operations counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxrep.step.flops import count_flops

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
