"""Autoencoders against NumPy in float64, in value and gradient; what lies below another one never changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxrep import encoders, methods, objectives
from jaxrep.batch import INFERENCE, Field, StepContext
from jaxrep.computation import Computation
from jaxrep.encoders import Perceptron
from jaxrep.objectives import evaluate
from jaxrep.params import split
from jaxrep.schedules import Constant
from jaxrep.spec import problems
from jaxrep.step import grad_cache

B, D = 7, 5
RANDOM = np.random.default_rng(0)
SPECTRA = RANDOM.uniform(size=(B, D)).astype(np.float32)
FIELDS = {"spectrum": Field((D,), "float32")}


def selu_net(*widths):
    return Perceptron(widths=widths, activation="selu", init="glorot")


FIRST = methods.Autoencoder(encoders={"spectrum": selu_net(4, 2)}, decoder=selu_net(4), output="sigmoid")
SECOND = methods.Autoencoder(
    encoders={"stack": selu_net(6, 3)},
    decoder=selu_net(6),
    output="sigmoid",
    joined={"stack": ("spectrum/reconstruction", "spectrum")},
    below=FIRST,
)
LAYERS = ("spectrum/layers/1", "spectrum/layers/2", "decoder/layers/1", "decoder/layers/2")
OBJECTIVE = {
    "reconstruction": objectives.Reconstruction("spectrum/reconstruction", "spectrum", patch=(), over="all"),
    "activations": objectives.ActivationNorm(LAYERS, weight=Constant(value=1e-2)),
}
STACKED = {
    "reconstruction": objectives.MeanSquare("stack/reconstruction", "stack/input"),
    "activations": objectives.ActivationNorm(
        tuple(name.replace("spectrum", "stack") for name in LAYERS), weight=Constant(value=1e-2), kind="l2"
    ),
}


def built(method, fields=None):
    structure, arrays = split(method.build(nnx.Rngs(0), inputs=fields or FIELDS))
    return structure, dict(arrays)


def batch_of(spectra=SPECTRA):
    return {"spectrum": jnp.asarray(spectra), "position": jnp.zeros((len(spectra), 2), jnp.uint32)}


def loss_of(structure, objective, batch=None):
    ctx, batch = StepContext(jnp.int32(0), jax.random.key(0)), batch or batch_of()

    def loss(arrays):
        outputs = structure.merge(arrays).per_example(batch, ctx)
        return evaluate(objective, outputs, batch, ctx)[0]

    return loss


SELU = 1.6732632423543772, 1.0507009873554805
SHAPES = {
    "selu": lambda x: SELU[1] * np.where(x > 0, x, SELU[0] * (np.exp(np.minimum(x, 0)) - 1)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def numpy_layers(x, arrays, part, kinds):
    """Return what follows each layer of a perceptron, float64."""
    after = []
    for i, kind in enumerate(kinds):
        x = SHAPES[kind](x @ arrays[f"{part}/layers/{i}/kernel"] + arrays[f"{part}/layers/{i}/bias"])
        after.append(x)
    return after


def numpy_autoencoder(x, arrays, name, decoder):
    codes = numpy_layers(x, arrays, name, ["selu", "selu"])
    return codes, numpy_layers(codes[-1], arrays, decoder, ["selu", "sigmoid"])


def numpy_loss(arrays, spectra=SPECTRA):
    x = spectra.astype(np.float64)
    encoded, decoded = numpy_autoencoder(x, arrays, "spectrum", "decoder")
    penalty = sum(np.abs(layer).sum() for layer in (*encoded, *decoded)) / len(x)  # as in Keras
    return np.mean((decoded[-1] - x) ** 2) + 1e-2 * penalty


def numpy_stacked(arrays):
    x = SPECTRA.astype(np.float64)
    first = numpy_autoencoder(x, arrays, "below/spectrum", "below/decoder")[1][-1]
    x = np.concatenate([first, x], axis=1)
    encoded, decoded = numpy_autoencoder(x, arrays, "stack", "decoder")
    penalty = sum(np.square(layer).sum() for layer in (*encoded, *decoded)) / len(x)
    return np.mean((decoded[-1] - x) ** 2) + 1e-2 * penalty


@pytest.mark.parametrize(
    ("method", "objective", "oracle"), [(FIRST, OBJECTIVE, numpy_loss), (SECOND, STACKED, numpy_stacked)]
)
def test_objective_equals_numpy_in_value_and_gradient(method, objective, oracle):
    structure, arrays = built(method)
    arrays = {
        name: jnp.asarray(x) + (0.1 * RANDOM.normal(size=x.shape).astype(np.float32) if x.ndim == 1 else 0)
        for name, x in arrays.items()
    }
    loss = loss_of(structure, objective)
    exact = {name: np.asarray(x, np.float64) for name, x in arrays.items()}
    np.testing.assert_allclose(loss(arrays), oracle(exact), rtol=1e-5)
    gradients = jax.grad(loss)({name: arrays[name] for name in arrays})
    for name in ("decoder/layers/0/kernel", f"{next(iter(method.encoders))}/layers/1/kernel"):
        for at in ((0, 0), (1, 1)):
            ends = []
            for sign in (1, -1):
                moved = {**exact, name: exact[name].copy()}
                moved[name][at] += sign * 1e-6
                ends.append(oracle(moved))
            np.testing.assert_allclose(gradients[name][at], (ends[0] - ends[1]) / 2e-6, rtol=2e-3, atol=1e-6)


def test_no_gradient_reaches_what_lies_below():
    structure, arrays = built(SECOND)
    below = [name for name in arrays if name.startswith("below/")]
    assert len(below) == 8 and not structure.trainable & set(below)
    assert structure.trainable == set(arrays) - set(below)
    gradients = jax.grad(loss_of(structure, STACKED))(arrays)
    for name, x in gradients.items():
        assert (np.abs(x).max() > 0) == (name not in below), name
    # its input does depend on what lies below
    changed = {name: x + 0.5 if name == "below/decoder/layers/1/bias" else x for name, x in arrays.items()}
    assert abs(loss_of(structure, STACKED)(changed) - loss_of(structure, STACKED)(arrays)) > 1e-3


def test_outputs_below_are_those_of_its_own_run():
    first, arrays = built(FIRST)
    second, all_arrays = built(SECOND)
    all_arrays |= {f"below/{name}": x for name, x in arrays.items()}
    own, stacked = (
        structure.merge(values).per_example({"spectrum": jnp.asarray(SPECTRA)}, INFERENCE)
        for structure, values in ((first, arrays), (second, all_arrays))
    )
    for name in ("spectrum", "spectrum/reconstruction", "spectrum/layers/1"):
        np.testing.assert_array_equal(own[name], stacked[name])
    joined = np.concatenate([own["spectrum/reconstruction"], SPECTRA], axis=1)
    np.testing.assert_array_equal(stacked["stack/input"], joined)
    assert stacked["code"].shape == stacked["stack"].shape == (B, 3)
    assert stacked["stack/reconstruction"].shape == (B, 2 * D)


def test_third_reads_a_hidden_layer_of_the_second():
    third = methods.Autoencoder(
        encoders={"top": selu_net(4, 2)},
        joined={"top": ("stack/layers/1", "stack/input", "spectrum/pooled")},
        below=SECOND,
    )
    structure, arrays = built(third)
    outputs = structure.merge(arrays).per_example({"spectrum": jnp.asarray(SPECTRA)}, INFERENCE)
    assert outputs["top/input"].shape == outputs["top/reconstruction"].shape == (B, 6 + 2 * D + 2)
    np.testing.assert_array_equal(outputs["top/input"][:, -2:], outputs["spectrum"])
    assert {"spectrum", "stack", "top"} <= outputs.keys()
    assert sum(name.startswith("below/below/") for name in arrays) == 8


def test_several_fields_of_any_shape_have_one_code():
    fields = {"image": Field((8, 8, 3), "uint8"), **FIELDS}
    vit = encoders.ViT(width=8, depth=1, heads=2, stem=encoders.PatchStem(patch=4))
    method = methods.Autoencoder(encoders={"image": vit, "spectrum": selu_net(3)})
    structure, arrays = built(method, fields)
    image = RANDOM.integers(256, size=(B, 8, 8, 3), dtype=np.uint8)
    outputs = structure.merge(arrays).per_example({"image": image, "spectrum": jnp.asarray(SPECTRA)}, INFERENCE)
    assert outputs["code"].shape == (B, 8 + 3) and outputs["image/tokens"].shape == (B, 4, 8)
    assert outputs["image/reconstruction"].shape == image.shape
    np.testing.assert_allclose(outputs["image/input"], image / np.float32(255), rtol=1e-6)
    kernel, bias = (np.asarray(arrays[f"decoder/layers/0/{name}"], np.float64) for name in ("kernel", "bias"))
    flat = np.asarray(outputs["code"], np.float64) @ kernel + bias  # no decoder: one linear map
    np.testing.assert_allclose(outputs["spectrum/reconstruction"], flat[:, -D:], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(outputs["image/reconstruction"].reshape(B, -1), flat[:, :-D], rtol=1e-3, atol=1e-5)
    one = structure.merge(arrays).per_example({"spectrum": jnp.asarray(SPECTRA)}, INFERENCE)
    np.testing.assert_array_equal(one["spectrum"], outputs["spectrum"])
    assert "code" not in one and "spectrum/reconstruction" not in one  # a field is missing


def test_training_lowers_the_loss_and_leaves_what_lies_below():
    structure, arrays = built(SECOND)
    trained = {name: x for name, x in arrays.items() if name in structure.trainable}
    rest = {name: x for name, x in arrays.items() if name not in trained}
    optimizer = optax.adam(1e-2)
    state, loss = optimizer.init(trained), lambda params: loss_of(structure, STACKED)({**rest, **params})
    step, before = jax.jit(jax.value_and_grad(loss)), float(loss(trained))
    for _ in range(60):
        _, gradients = step(trained)
        updates, state = optimizer.update(gradients, state)
        trained = optax.apply_updates(trained, updates)
    assert float(loss(trained)) < 0.7 * before  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("method", "objective"), [(FIRST, OBJECTIVE), (SECOND, STACKED)])
def test_microbatches_equal_the_whole_batch(method, objective):
    structure, arrays = built(method)
    params = {name: x for name, x in arrays.items() if name in structure.trainable}
    rest = {name: x for name, x in arrays.items() if name not in params}
    spectra = RANDOM.uniform(size=(6, D)).astype(np.float32)
    batch, computation = batch_of(spectra), Computation(structure, (), objective)
    ctx = StepContext(jnp.int32(0), jax.random.key(0), batch["position"], batch_size=6)
    whole = computation.value_and_grad(params, rest, batch, ctx)
    read = {name for term in objective.values() if not term.separable for name in term.reads}
    parts = grad_cache.value_and_grad(computation, params, rest, batch, ctx, size=2, keep=lambda name: name in read)
    np.testing.assert_allclose(parts[0][0], whole[0][0], rtol=1e-5)
    for name, x in whole[1].items():
        np.testing.assert_allclose(parts[1][name], x, rtol=1e-4, atol=1e-7)


def message(method, fields=None):
    with pytest.raises(ValueError) as raised:
        built(method, fields)
    return str(raised.value)


def test_what_cannot_be_encoded_is_one_sentence():
    assert "reads the field 'spectrum', which the batch lacks" in message(FIRST, {"other": FIELDS["spectrum"]})
    assert "reads the field 'spectrum/layers/3', which the batch lacks" in message(
        methods.Autoencoder(encoders={"a": selu_net(2)}, joined={"a": ("spectrum/layers/3",)}, below=FIRST)
    )
    image = {"image": Field((8, 8, 3), "uint8")}
    assert message(methods.Autoencoder(encoders={"a": selu_net(2)}, joined={"a": ("image",)}), image) == (
        "joined.a puts vectors of numbers side by side, and got 'image', uint8 [8, 8, 3]"
    )
    views = {"spectrum": Field((2, D), "float32")}
    assert message(FIRST, views) == "'spectrum' has shape (2, 5) a row, and its encoder reads 1 axes of it"
    net = selu_net(2)
    for method, sentence in (
        (methods.Autoencoder(encoders={}), "encoders needs the encoder of one field at least"),
        (methods.Autoencoder(encoders={"code": net}), "encoders names 'code': expected the name of a field"),
        (methods.Autoencoder(encoders={"spectrum": net}, below=FIRST), "encoders names 'spectrum', as below does"),
        (methods.Autoencoder(encoders={"a": net}, joined={"b": ("a",)}), "joined names 'b', which encoders does not"),
        (methods.Autoencoder(encoders={"a": net}, joined={"a": ()}), "joined.a is empty"),
    ):
        assert problems(method)[0].startswith(sentence)
    assert problems(objectives.ActivationNorm(())) == [
        "x names no activations, such as decoder/layers/1: name one at least"
    ]
