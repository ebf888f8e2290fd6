"""Projectors equal an oracle in float64, with and without running statistics; fixed heads do what papers state."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxrep.methods.self_supervised.projector import FirstFeatures, Projector, ScaleFeatures, apply_head
from jaxrep.params import by_path
from jaxrep.spec import problems

X = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
KEEP = 0.75


def built(spec: Projector, seed: int = 1) -> Any:
    """Return the module with drawn parameters; running variances are positive."""
    module = spec.build(nnx.Rngs(0), inputs=6)
    rng = np.random.default_rng(seed)
    for path, leaf in by_path(nnx.state(module)).items():
        values = rng.normal(size=leaf.shape).astype(np.float32)
        leaf.set_value(np.abs(values) + 0.5 if path.startswith("variances") else values)
    nnx.update(module, nnx.state(module))
    return module


def oracle(spec: Projector, module: Any, x: np.ndarray, running: bool = False) -> tuple[np.ndarray, list[Any]]:
    """Return the output in float64, and the mean and variance at each norm."""
    arrays = {path: np.float64(leaf[...]) for path, leaf in by_path(nnx.state(module)).items()}
    y, found, last = np.float64(x), [], len(spec.widths) - 1
    for i in range(last + 1):
        y = y @ arrays[f"layers/{i}/kernel"] + arrays.get(f"layers/{i}/bias", 0)
        if spec.norm == "batch" and (i < last or spec.last_norm):
            rows = y.reshape(-1, y.shape[-1])
            mean, variance = rows.mean(0), rows.var(0)
            found.append((mean, variance))
            if running:
                mean, variance = arrays[f"means/{i}"], arrays[f"variances/{i}"]
            y = (y - mean) / np.sqrt(variance + spec.epsilon)
            y = y * arrays.get(f"scales/{i}", 1) + arrays.get(f"biases/{i}", 0)
        if i < last:
            y = np.maximum(y, 0)
    return y, found


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        (Projector(widths=(5, 4)), "layers/0/kernel layers/1/kernel scales/0 biases/0"),
        (Projector(widths=(5, 4), bias=True), "layers/0/kernel layers/1/kernel layers/1/bias scales/0 biases/0"),
        (
            Projector(widths=(5, 4), last_norm=True, last_gain=False, bias=True),
            "layers/0/kernel layers/1/kernel scales/0 biases/0",
        ),
        (
            Projector(widths=(5, 4), last_norm=True),
            "layers/0/kernel layers/1/kernel scales/0 scales/1 biases/0 biases/1",
        ),
        (
            Projector(widths=(5, 4), norm="none", bias=True),
            "layers/0/kernel layers/1/kernel layers/0/bias layers/1/bias",
        ),
    ],
)
def test_projector_equals_the_oracle_in_value_and_gradient(spec, paths):
    module = built(spec)
    assert {*by_path(nnx.state(module))} == {*paths.split()}
    expected, _ = oracle(spec, module, X)
    y, batch_stats = apply_head(module, X, True)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)  # float32
    assert batch_stats is None and module(X).shape == (12, 4)
    direction = np.random.default_rng(2).normal(size=X.shape)
    slope = (oracle(spec, module, X + 1e-6 * direction)[0] - oracle(spec, module, X - 1e-6 * direction)[0]) / 2e-6
    _, found = jax.jvp(module, (X,), (np.float32(direction),))
    np.testing.assert_allclose(found, slope, rtol=1e-3, atol=1e-3)


def test_examples_have_any_number_of_axes():
    """Rows, crops and places alike: statistics are over all axes but the last."""
    module = built(Projector(widths=(5, 4), last_norm=True))
    np.testing.assert_allclose(module(X.reshape(3, 2, 2, 6)), module(X).reshape(3, 2, 2, 4), rtol=1e-5, atol=1e-6)


def test_running_statistics_move_in_training_and_are_used_at_inference():
    spec = Projector(widths=(5, 4), last_norm=True, momentum=KEEP)
    module = built(spec)
    before = {path: np.float64(leaf[...]) for path, leaf in by_path(nnx.state(module)).items()}
    expected, statistics = oracle(spec, module, X)
    y, state = apply_head(module, X, True)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    found = by_path(state)
    assert {*found} == {f"{name}/{i}" for name in ("means", "variances") for i in range(2)}
    for i, pair in enumerate(statistics):
        for name, new in zip(("means", "variances"), pair, strict=True):
            path = f"{name}/{i}"
            np.testing.assert_allclose(found[path][...], KEEP * before[path] + (1 - KEEP) * new, rtol=1e-4, atol=1e-6)
    for path, leaf in by_path(nnx.state(module)).items():  # nothing was mutated
        np.testing.assert_array_equal(leaf[...], np.float32(before[path]))
    whole, none = apply_head(module, X, False)
    np.testing.assert_allclose(whole, oracle(spec, module, X, running=True)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apply_head(module, X[3:4], False)[0], whole[3:4], rtol=1e-5, atol=1e-6)
    assert none is None


def test_rows_are_projected_alone_where_no_statistics_of_the_batch_are_needed():
    assert Projector(widths=(4,)).per_row  # one layer, which no norm follows
    assert Projector(widths=(5, 4), momentum=0.9).per_row and Projector(widths=(5, 4), norm="none").per_row
    assert not Projector(widths=(5, 4)).per_row and not Projector(widths=(4,), last_norm=True).per_row


def test_fixed_heads_scale_features_and_take_the_first_ones():
    scaled, none = apply_head(ScaleFeatures(kappa=1.5).build(nnx.Rngs(0), inputs=6), X, True)
    np.testing.assert_allclose(scaled, X * 1.5 ** -np.arange(6.0), rtol=1e-6)
    assert none is None and ScaleFeatures(kappa=1.5).width(6) == 6
    wide = ScaleFeatures(kappa=10.0).build(nnx.Rngs(0), inputs=60)(np.ones((1, 60), np.float32))
    assert np.isfinite(wide).all() and wide[0, 59] == 0
    np.testing.assert_array_equal(FirstFeatures(features=2).build(nnx.Rngs(0), inputs=6)(X), X[:, :2])
    with pytest.raises(ValueError, match="takes 7 features, and its input has 6"):
        FirstFeatures(features=7).build(nnx.Rngs(0), inputs=6)


def test_fields_that_do_nothing_are_refused():
    assert problems(Projector(widths=())) == ["widths needs one layer at least"]
    assert "has no use for last_norm = True" in problems(Projector(widths=(4,), norm="none", last_norm=True))[0]
    assert "set last_norm = True" in problems(Projector(widths=(4,), last_gain=False))[0]
