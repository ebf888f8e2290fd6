"""The objective on held-out data is that of a training step, with fixed draws."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep import encoders, methods, objectives
from jaxrep.batch import Field, StepContext
from jaxrep.computation import Computation
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.errors import BadSample, JaxrepError
from jaxrep.evals import HeldOutObjective
from jaxrep.mesh import Mesh
from jaxrep.model import Model
from jaxrep.params import split
from jaxrep.schedules import Constant
from jaxrep.spec import problems
from jaxrep.views import RandomMask
from tests.helpers.fake_model import TABLES, given
from tests.methods.self_supervised.test_autoencoder import FIRST, LAYERS, numpy_loss

N, D = 11, 5
RANDOM = np.random.default_rng(0)
SPECTRA = RANDOM.uniform(size=(N, D)).astype(np.float32)


def model_of(method, fields, tokenizer=None):
    structure, arrays = split(method.build(nnx.Rngs(0), inputs=fields))
    return Model(structure, arrays, fields, tokenizer)


SPECTRUM = {"spectrum": Field((D,), "float32")}
OBJECTIVE = {
    "reconstruction": objectives.Reconstruction("spectrum/reconstruction", "spectrum", patch=(), over="all"),
    "activations": objectives.ActivationNorm(LAYERS, weight=Constant(value=1e-2)),
}


def test_value_equals_numpy_and_rows_that_fill_no_batch_are_left_out():
    model = model_of(FIRST, SPECTRUM)
    task = HeldOutObjective(data=given(spectrum=SPECTRA), objective=OBJECTIVE, batch_size=4)
    found = task.run(model)
    exact = {name: np.asarray(x, np.float64) for name, x in model._arrays.items()}
    batches = [numpy_loss(exact, SPECTRA[start : start + 4]) for start in (0, 4)]
    np.testing.assert_allclose(found["held_out/loss"].values, batches, rtol=1e-5)  # pyright: ignore
    assert found["held_out/loss"] == pytest.approx(
        found["held_out/loss/reconstruction"] + 1e-2 * found["held_out/loss/activations"]
    )


class Damaged(type(given(x=SPECTRA).open())):
    def gather(self, indices, keys=None, substitute=None):
        if 2 in indices:
            raise BadSample("a.npz", "row 2 is cut short")
        return super().gather(indices, keys, substitute)


def test_unreadable_rows_are_passed_over():
    model, kept = model_of(FIRST, SPECTRUM), np.delete(SPECTRA, 2, axis=0)
    damaged = given(spectrum=SPECTRA)
    TABLES[damaged.key] = Damaged({"spectrum": SPECTRA})
    first, second = (
        HeldOutObjective(data=x, objective=OBJECTIVE, batch_size=5) for x in (damaged, given(spectrum=kept))
    )
    assert first.run(model) == second.run(model)


VIT: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2}
MASKED = methods.Masked(
    encoder=encoders.ViT(**VIT, stem=encoders.PatchStem(patch=4), dropout=0.2),
    decoder=encoders.TokenDecoder(**VIT),
    reads="shown",
    targets={"pixels": 48},
)
IMAGES = RANDOM.integers(256, size=(N, 16, 16, 3), dtype=np.uint8)
MASK = RandomMask("image", patch=4)


def masked_model():
    batch = MASK(
        {"image": jnp.asarray(IMAGES)}, StepContext(jnp.int32(0), jax.random.key(0), np.zeros((N, 2), np.uint32))
    )
    return model_of(MASKED, {name: Field(x.shape[1:], str(x.dtype)) for name, x in batch.items()})


def test_draws_are_those_of_a_training_step_and_depend_on_the_seed_alone():
    model, terms = masked_model(), {"pixels": objectives.Reconstruction("pixels", "image", patch=4)}
    task = lambda seed, images=IMAGES: HeldOutObjective(  # noqa: E731
        data=given(image=images), views=(MASK,), objective=terms, batch_size=5, seed=seed
    )
    found = task(3).run(model)["held_out/loss"].values  # pyright: ignore
    assert np.array_equal(found, task(3).run(model)["held_out/loss"].values)  # pyright: ignore
    assert np.abs(found - task(4).run(model)["held_out/loss"].values).min() > 1e-6  # pyright: ignore
    more = np.concatenate([IMAGES, IMAGES])
    assert np.array_equal(found, task(3, more).run(model)["held_out/loss"].values[:2])  # pyright: ignore
    rows = np.stack([np.zeros(5), np.arange(5)], axis=1).astype(np.uint32)
    ctx = StepContext(jnp.int32(2**30), jax.random.key(3), rows, total_steps=2**30, batch_size=5)
    batch = {"image": IMAGES[:5], "position": rows}
    step = Computation(model._structure, (MASK,), terms)
    (loss, *_), gradients = step.value_and_grad(model._arrays, {}, batch, ctx)
    np.testing.assert_allclose(found[0], loss, rtol=1e-5)
    assert any(np.abs(x).max() > 0 for x in gradients.values())


def test_pairs_are_tokenized_as_in_training():
    text = encoders.TextTransformer(**VIT, pool="mean", causal=False)
    image = encoders.ViT(**VIT, stem=encoders.PatchStem(patch=4))
    method = methods.DualEncoder(towers={"image": image, "text": text}, dim=4)
    fields = {
        "image": Field((16, 16, 3), "uint8"),
        "text": Field((8,), "int32", 259),
        "text/valid": Field((8,), "bool"),
    }
    data = given(image=IMAGES, text=[f"text {i}" for i in range(N)], note=["not read"] * N)
    task = HeldOutObjective(data=data, objective={"pairs": objectives.Contrastive("image", "text")}, batch_size=10)
    assert task.reads == ("scale",)  # what the data hold is read from them
    model = model_of(method, fields, Bytes(length=8).load(()))
    similar = model.similarity(IMAGES[:10], [f"text {i}" for i in range(10)]).astype(np.float64)
    logits = similar * float(model.per_step(("scale",))["scale"])
    losses = [np.log(np.exp(x).sum(axis=1)) - np.diagonal(x) for x in (logits, logits.T)]
    assert task.run(model)["held_out/loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    eight, mesh = dataclasses.replace(task, batch_size=8), Mesh(data=2, fsdp=4)
    expected = eight.run(model)
    with jax.set_mesh(mesh.build(jax.devices())):  # as evaluations run while a run trains
        assert eight.run(model.shard(mesh)) == pytest.approx(expected, rel=1e-5)
        with pytest.raises(JaxrepError, match="held_out: a batch of 10 rows does not divide over the 8 devices"):
            task.run(model.shard(mesh))
    with pytest.raises(JaxrepError, match="held_out: the model has no tokenizer, so it cannot read 'text'"):
        task.run(model_of(method, fields))


def test_what_cannot_be_measured_is_one_sentence():
    model, data = model_of(FIRST, SPECTRUM), given(spectrum=SPECTRA)
    with pytest.raises(JaxrepError, match="held_out: data fill no batch of 12 examples: set batch_size"):
        HeldOutObjective(data=data, objective=OBJECTIVE, batch_size=12).run(model)
    with pytest.raises(JaxrepError, match=r"held_out: objective.a reads the output 'b', which is missing"):
        HeldOutObjective(data=data, objective={"a": objectives.KoLeo("b")}, batch_size=4).run(model)
    with pytest.raises(JaxrepError, match="held_out: RandomMask reads the field 'image', which the batch lacks"):
        HeldOutObjective(data=data, views=(MASK,), objective=OBJECTIVE, batch_size=4).run(model)
    with pytest.raises(JaxrepError, match="the loss is not finite"):
        HeldOutObjective(data=given(spectrum=SPECTRA * np.nan), objective=OBJECTIVE, batch_size=4).run(model)
    (sentence,) = problems(HeldOutObjective(data=data, objective={}))
    assert sentence == "objective has no term: nothing would be measured"
    (sentence,) = problems(HeldOutObjective(data=data, objective={"a": objectives.CrossEntropy("spectrum")}))
    assert sentence.startswith("data (Given) has no column 'label'; there are: spectrum")
