"""Optimizers: equal to optax on plain trees, equal on stacked and unrolled models, and obedient to their rules."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrep.batch import StepContext
from jaxrep.experiment import load
from jaxrep.optim.muon import Muon
from jaxrep.optim.optimizers import Adafactor, Adam, AdamW, Lamb, Lars, Optimizer, Sgd
from jaxrep.optim.rules import Freeze, LayerDecay, LearningRate, LearningRateSchedule, WeightDecay
from jaxrep.schedules import Constant, Linear
from jaxrep.spec import problems

RATE, DECAY, STEPS, DEPTH = 0.05, 0.1, 3, 3
SHAPES = {
    "image/patch/kernel": (6, 4),
    "image/blocks/mlp/up/kernel": (DEPTH, 4, 8),
    "image/blocks/mlp/up/bias": (DEPTH, 8),
    "text/blocks/query/bias": (DEPTH - 1, 2, 2),
    "text/blocks/query/kernel": (DEPTH - 1, 5, 4),
    "scale/log": (),
}
OPTIMIZERS = {
    "adamw": AdamW(b2=0.98, eps=1e-6, weight_decay=Constant(value=DECAY)),
    "stable adamw": AdamW(b2=0.98, eps=1e-6, weight_decay=Constant(value=DECAY), clip_updates=True),
    "muon": Muon(matrices=("**/kernel",), weight_decay=Constant(value=DECAY), b2=0.98),
    "adam": Adam(b1=0.8, weight_decay=Constant(value=DECAY)),
    "sgd": Sgd(weight_decay=Constant(value=DECAY), nesterov=True),
    "lamb": Lamb(weight_decay=Constant(value=DECAY)),
    "lars": Lars(weight_decay=Constant(value=DECAY), trust=0.1),
    "adafactor": Adafactor(weight_decay=Constant(value=DECAY), min_factored=4, momentum=0.9),
}


def _adafactor(matrix: bool) -> optax.GradientTransformation:
    """Optax's Adafactor; its weight decay is not multiplied by the learning rate."""
    decay = RATE * DECAY if matrix else None
    return optax.adafactor(
        RATE, min_dim_size_to_factor=4, momentum=0.9, weight_decay_rate=decay, multiply_by_parameter_scale=matrix
    )


def stable_adamw() -> optax.GradientTransformation:
    """Algorithm 2 of Wortsman et al. 2023, array by array, with its decays that change with the step."""

    def update(grads, state, params):
        step, first, second = state
        step, new, updates = step + 1, ({}, {}), {}
        b1, b2 = (b * (1 - b ** (step - 1)) / (1 - b**step) for b in (0.9, 0.98))
        for path, g in grads.items():
            v, u = b1 * first[path] + (1 - b1) * g, b2 * second[path] + (1 - b2) * g**2
            new[0][path], new[1][path] = v, u
            rms = jnp.sqrt(jnp.mean(g**2 / jnp.maximum(u, 1e-12)))
            rate, decay = RATE / jnp.maximum(1, rms), DECAY * MATRICES[path]
            updates[path] = -rate * (decay * params[path] + v / (jnp.sqrt(u) + 1e-6))
        return updates, (step, *new)

    def init(params):
        zeros = {path: jnp.zeros_like(p) for path, p in params.items()}
        return jnp.zeros(()), zeros, zeros

    return optax.GradientTransformation(init, update)


def muon() -> optax.GradientTransformation:
    """Muon of Jordan et al. 2024 on matrices, with steps of the size of AdamW's, and AdamW on the rest."""
    inputs = {"image/patch/kernel": 1, "image/blocks/mlp/up/kernel": 2, "text/blocks/query/kernel": 1}

    def orthogonal(m, axes):
        x = m.reshape(int(np.prod(m.shape[:axes])), -1)
        size = max(x.shape) ** 0.5 * 0.2
        x = x / jnp.linalg.norm(x)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
        return size * x.reshape(m.shape)

    def update(grads, state, params):
        step, first, second = state
        step, new, updates = step + 1, ({}, {}), {}
        for path, g in grads.items():
            beta = 0.95 if MATRICES[path] else 0.9
            m = new[0][path] = beta * first[path] + (1 - beta) * g
            v = new[1][path] = 0.98 * second[path] + 0.02 * g**2
            if MATRICES[path]:
                ahead = beta * m / (1 - beta ** (step + 1)) + (1 - beta) * g / (1 - beta**step)
                direction = orthogonal(ahead, inputs[path]) + DECAY * params[path]
            else:
                direction = m / (1 - beta**step) / (jnp.sqrt(v / (1 - 0.98**step)) + 1e-8)
            updates[path] = -RATE * direction
        return updates, (step, *new)

    def init(params):
        zeros = {path: jnp.zeros_like(p) for path, p in params.items()}
        return jnp.zeros(()), zeros, zeros

    return optax.GradientTransformation(init, update)


MATRICES = {path: path.endswith("kernel") for path in SHAPES}
OPTAX = {
    "adamw": optax.adamw(RATE, b2=0.98, eps=1e-6, weight_decay=DECAY, mask=MATRICES),
    "stable adamw": stable_adamw(),
    "muon": muon(),
    "adam": optax.chain(optax.add_decayed_weights(DECAY, MATRICES), optax.adam(RATE, b1=0.8)),
    "sgd": optax.chain(optax.add_decayed_weights(DECAY, MATRICES), optax.sgd(RATE, 0.9, nesterov=True)),
    "lamb": optax.partition({True: optax.lamb(RATE, weight_decay=DECAY), False: optax.adam(RATE, eps=1e-6)}, MATRICES),
    "lars": optax.lars(RATE, DECAY, MATRICES, trust_coefficient=0.1, trust_ratio_mask=MATRICES, momentum=0.9),
    "adafactor": optax.partition({matrix: _adafactor(matrix) for matrix in (True, False)}, MATRICES),
}
# float32 rounding of a few updates: the order of multiplications differs.
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)


def _draw(seed: int) -> dict:
    """Arrays whose layers differ in size by orders of magnitude, so that a norm over a whole stack would show."""
    rng = np.random.default_rng(seed)
    return {
        path: np.float32((rng.normal(size=shape).T * 10.0 ** -np.arange(shape[0] if shape else 1)).T.reshape(shape))
        for path, shape in SHAPES.items()
    }


def _gradients() -> dict:
    """[STEPS,...] a parameter."""
    steps = [_draw(1 + step) for step in range(STEPS)]
    return {path: np.stack([step[path] for step in steps]) for path in SHAPES}


def _train(optimizer: Optimizer, params: dict, gradients: dict) -> dict:
    """The trained parameters after an update with each of the gradients."""
    updater = optimizer.build(params)
    params = {path: jnp.asarray(params[path]) for path in updater.trained}

    def update(carry, at):
        (params, state), (step, grads) = carry, at
        ctx = StepContext(step=step, total_steps=STEPS)
        updates, state, _ = updater.update(grads, state, params, ctx=ctx, learning_rate=jnp.float32(RATE))
        return (optax.apply_updates(params, updates), state), None

    steps = (jnp.arange(STEPS), {path: gradients[path] for path in params})
    (end, _), _ = jax.jit(lambda p: jax.lax.scan(update, (p, updater.init(p)), steps))(params)
    return jax.device_get(end)


def _one_update(optimizer: Optimizer, params: dict, gradients: dict) -> tuple[dict, float]:
    """Updates at a learning rate of 1, and the norm of the gradient."""
    updater = optimizer.build(params)
    update = jax.jit(functools.partial(updater.update, ctx=StepContext(step=0), learning_rate=jnp.float32(1.0)))
    updates, _, metrics = update(gradients, updater.init(params), params)
    return updates, float(metrics["gradient_norm"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_unstacked_parameters_it_equals_optax(name):
    reference = OPTAX[name]

    def update(carry, grads):
        params, state = carry
        updates, state = reference.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (expected, _), _ = jax.jit(lambda p: jax.lax.scan(update, (p, reference.init(p)), _gradients()))(_draw(0))

    def plain(tree):
        return {path.replace("blocks", "list"): leaf for path, leaf in tree.items()}

    found = _train(OPTIMIZERS[name], plain(_draw(0)), plain(_gradients()))
    for path, leaf in plain(expected).items():
        close(found[path], leaf, err_msg=path)


def test_lars_of_vectors_too_is_that_of_optax_without_a_mask():
    """LARC, as SwAV's code takes it; its norm of the gradient has no weight decay."""
    params = {path.replace("blocks", "list"): leaf for path, leaf in _draw(0).items()}
    gradients = {path.replace("blocks", "list"): leaf for path, leaf in _gradients().items()}
    reference = optax.lars(RATE, DECAY, trust_coefficient=0.1, momentum=0.9)

    def update(carry, grads):
        updates, state = reference.update(grads, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    (expected, _), _ = jax.jit(lambda p: jax.lax.scan(update, (p, reference.init(p)), gradients))(params)
    rules = (WeightDecay(path="**", factor=1.0),)
    found = Lars(vectors=True, trust=0.1, weight_decay=Constant(value=DECAY), rules=rules)
    for path, leaf in _train(found, params, gradients).items():
        close(leaf, expected[path], err_msg=path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_vectors_and_biases_move_alike_wherever_they_start(name):
    """A logarithm that starts at 0 would stay near it if its step were multiplied by its norm."""
    own = [path for path, matrix in MATRICES.items() if not matrix]
    gradients = _gradients()
    moved = []
    for start in (0.0, 1e-4, 0.5):
        params = _draw(0) | {path: np.full(SHAPES[path], start, np.float32) for path in own}
        end = _train(OPTIMIZERS[name], params, gradients)
        moved.append({path: end[path] - params[path] for path in own})
    for path in own:
        assert np.all(moved[0][path] != 0)
        close(moved[1][path], moved[0][path], err_msg=path)
        close(moved[2][path], moved[0][path], atol=1e-6, err_msg=path)


def test_the_temperature_of_align_leaves_its_start_at_the_rate_of_the_schedule():
    """Its logarithm starts at 0. With gradients of one sign Adam's steps are as long as the learning rate."""
    recipe = load("align").recipe
    rate, steps = recipe.schedule.peak, 100
    updater = recipe.optimizer.build(params := {"scale/log": jnp.log(jnp.float32(recipe.method.scale.init))})

    def update(carry, step):
        params, state = carry
        ctx = StepContext(step=step, total_steps=steps)
        grads = {"scale/log": -jnp.float32(1e-3)}
        updates, state, _ = updater.update(grads, state, params, ctx=ctx, learning_rate=jnp.float32(rate))
        return (optax.apply_updates(params, updates), state), None

    (end, _), _ = jax.jit(lambda p: jax.lax.scan(update, (p, updater.init(p)), jnp.arange(steps)))(params)
    # The moments' epsilon is a thousandth of the gradient.
    np.testing.assert_allclose(end["scale/log"], rate * steps, rtol=2e-3)


def _unroll(tree: dict, axis: int = 0) -> dict:
    """``image/blocks/x`` with its layers along ``axis`` -> ``image/layer0/x`` and so on."""
    flat = {path: leaf for path, leaf in tree.items() if "/blocks/" not in path}
    for path in tree.keys() - flat.keys():
        layers = np.moveaxis(tree[path], axis, 0)
        flat |= {path.replace("blocks", f"layer{n}"): layer for n, layer in enumerate(layers)}
    return flat


STACKED_RULES = (
    LayerDecay(path="image", factor=0.5),
    WeightDecay(path="image/blocks[1]/**", factor=0.5),
    Freeze(path="text/blocks[0]/**"),
)
UNROLLED_RULES = (
    *(LearningRate(path=f"image/layer{n}/**", factor=0.5 ** (DEPTH - n)) for n in range(DEPTH)),
    LearningRate(path="image/patch/**", factor=0.5 ** (DEPTH + 1)),
    WeightDecay(path="image/layer1/**", factor=0.5),
    Freeze(path="text/layer0/**"),
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stacked_and_unrolled_models_are_updated_alike_and_frozen_layers_keep_their_bits(name):
    optimizer = dataclasses.replace(OPTIMIZERS[name], clip_norm=0.7)
    gradients = _gradients()
    gradients["text/blocks/query/kernel"][:, 0] = np.nan  # of a frozen layer: it must reach nothing
    stacked = _train(dataclasses.replace(optimizer, rules=STACKED_RULES), _draw(0), gradients)
    unrolled = dataclasses.replace(optimizer, rules=UNROLLED_RULES)
    unrolled = _train(unrolled, _unroll(_draw(0)), _unroll(gradients, axis=1))
    stacked, start = _unroll(stacked), _unroll(_draw(0))
    frozen = stacked.keys() - unrolled.keys()
    assert frozen == {"text/layer0/query/kernel", "text/layer0/query/bias"}
    for path, leaf in stacked.items():
        if path in frozen:
            np.testing.assert_array_equal(leaf, start[path])
        else:
            close(leaf, unrolled[path], err_msg=path)
            assert np.all(leaf != start[path]), path


def test_only_what_is_frozen_entirely_is_left_out_of_training():
    rules = (Freeze(path="image/**"), LearningRate(path="image/blocks[-1]/**", factor=1.0), Freeze(path="scale/log"))
    trained = AdamW(rules=rules).build(_draw(0)).trained
    assert trained == SHAPES.keys() - {"image/patch/kernel", "scale/log"}


def test_clipping_scales_gradients_down_to_the_norm_and_reports_the_norm_before():
    params = {"a": jnp.zeros((1, 2)), "b/blocks/w": jnp.zeros((3, 1, 1))}
    grads = {"a": jnp.array([[1.0, 2.0]]), "b/blocks/w": jnp.array([2.0, 4.0, 100.0]).reshape(3, 1, 1)}
    for limit, factor in ((2.5, 0.5), (10.0, 1.0), (0.0, 1.0)):
        optimizer = Sgd(momentum=0.0, clip_norm=limit, rules=(Freeze(path="b/blocks[2]/w"),))
        updates, norm = _one_update(optimizer, params, grads)
        assert norm == 5.0
        np.testing.assert_array_equal(updates["a"], -factor * grads["a"])
        np.testing.assert_array_equal(updates["b/blocks/w"].ravel(), [-2 * factor, -4 * factor, 0])


def test_weight_decay_follows_its_schedule():
    """With no gradient SGD without momentum multiplies by 1 - rate * decay(step)."""
    optimizer = Sgd(momentum=0.0, weight_decay=Linear(start=0.0, end=1.0))
    zeros = {"w": np.zeros((STEPS, 2, 2), np.float32), "bias": np.zeros((STEPS, 2), np.float32)}
    end = _train(optimizer, {"w": jnp.ones((2, 2)), "bias": jnp.ones(2)}, zeros)
    close(end["w"], np.prod([1 - RATE * step / STEPS for step in range(STEPS)]))
    np.testing.assert_array_equal(end["bias"], 1)


def test_a_rate_over_training_moves_the_layers_that_it_names_by_its_schedule():
    rules = (
        LearningRate(path="b/**", factor=2.0),
        LearningRateSchedule(path="b/blocks[1:]/w", factor=Linear(start=0.0, end=float(STEPS))),
    )
    params = {"a": jnp.ones((1, 1)), "b/blocks/w": jnp.ones((3, 1, 1))}
    ones = {path: np.ones((STEPS, *leaf.shape), np.float32) for path, leaf in params.items()}
    end = _train(Sgd(momentum=0.0, rules=rules), params, ones)
    close(end["a"], 1 - RATE * STEPS)
    scheduled = 1 - 2 * RATE * sum(range(STEPS))
    close(end["b/blocks/w"].ravel(), [1 - 2 * RATE * STEPS, scheduled, scheduled])


def test_every_moment_lies_under_the_path_of_its_parameter():
    state = jax.eval_shape(lambda params: AdamW().build(params).init(params), _draw(0))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    moments = [(keys[-1].key, leaf.shape) for keys, leaf in leaves if leaf.dtype == jnp.float32]
    assert sorted(moments) == sorted([*SHAPES.items(), *SHAPES.items()])


def test_numbers_out_of_range_are_problems():
    assert problems(AdamW(b2=1.0, clip_norm=-1.0)) == [
        "clip_norm: expected a number of at least 0, got -1.0",
        "b2: expected a number of at least 0 and below 1, got 1.0",
    ]
