"""Terms bind losses to names, and the objective is their sum: against NumPy in float64."""

import dataclasses
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.objectives.base import Term, evaluate
from jaxrep.objectives.classification import CrossEntropy
from jaxrep.objectives.contrastive import Contrastive, Sigmoid
from jaxrep.objectives.matryoshka import Matryoshka
from jaxrep.schedules import Constant, Linear
from jaxrep.spec import problems, spec
from tests.helpers.harness import ctx

B, D = 8, 6
RNG = np.random.default_rng(0)
OUTPUTS: dict[str, Any] = {
    "image": 3 * RNG.normal(size=(B, D)).astype(np.float32),
    "text": RNG.normal(size=(B, D)).astype(np.float32),
    "scale": np.float32(4.0),
    "bias": np.float32(-2.0),
    "classes": RNG.normal(size=(5, 4)).astype(np.float32),
    "classes/bias": RNG.normal(size=5).astype(np.float32),
    "hard": RNG.normal(size=(B, 2, D)).astype(np.float32),
    "queue": RNG.normal(size=(3, D)).astype(np.float32),
}
BATCH: dict[str, Any] = {
    "position": np.zeros((B, 2), np.uint32),
    "text_id": np.array([0, 1, 1, 2, 3, 3, 3, 4], np.int32),
    "label": np.array([0, 1, 2, -1, 4, 0, -1, 3], np.int32),
    "trust": np.linspace(0.5, 2, B).astype(np.float32),
}
HERE = {
    "image/present": np.array([1, 1, 0, 1, 1, 1, 1, 1], bool),
    "text/present": np.array([1, 1, 1, 1, 0, 1, 1, 1], bool),
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def logits(width=D, a="image", b="text"):
    a, b = (unit(np.float64(OUTPUTS[name].reshape(-1, D)[:, :width])) for name in (a, b))
    return 4 * a @ b.T


def log_softmax(x, axis):
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def info_nce(x):
    return -(np.diag(log_softmax(x, 0)) + np.diag(log_softmax(x, 1))).mean() / 2


def value(term, batch=BATCH):
    return jax.jit(term)(OUTPUTS, batch, ctx())[0]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32 sums of 8 x 8 terms


def test_contrastive_reads_raw_embeddings_by_their_names():
    close(value(Contrastive("image", "text")), info_nce(logits()))
    close(value(Contrastive("text", "image", direction="a_to_b")), -np.diag(log_softmax(logits(), 0)).mean())


def test_contrastive_leaves_out_rows_of_equal_ids():
    alike = BATCH["text_id"][:, None] == BATCH["text_id"]
    masked = np.where(alike & ~np.eye(B, dtype=bool), -np.inf, logits())
    close(value(Contrastive("image", "text", positives="masked", ids=("text_id",))), info_nce(masked))


def test_rows_that_do_not_exist_are_neither_candidates_nor_counted():
    both = HERE["image/present"] & HERE["text/present"]
    rows = log_softmax(np.where(HERE["text/present"][None], logits(), -np.inf), 1)
    columns = log_softmax(np.where(HERE["image/present"][:, None], logits(), -np.inf), 0)
    expected = -(np.diag(rows)[both].mean() + np.diag(columns)[both].mean()) / 2
    close(value(Contrastive("image", "text"), {**BATCH, **HERE}), expected)


def test_sigmoid_reads_scale_and_bias():
    signed = (2 * np.eye(B) - 1) * (logits() - 2)
    close(value(Sigmoid("image", "text")), np.log1p(np.exp(-signed)).sum() / B)


def test_sigmoid_leaves_out_pairs_of_equal_ids():
    alike = (BATCH["text_id"][:, None] == BATCH["text_id"]) & ~np.eye(B, dtype=bool)
    each = np.log1p(np.exp(-(2 * np.eye(B) - 1) * (logits() - 2)))
    close(value(Sigmoid("image", "text", positives="masked", ids=("text_id",))), np.where(alike, 0, each).sum() / B)


EXTRA: Any = {"extra_a": "queue", "extra_b": "hard"}


def with_extra(width=D):
    """Rows of images against texts and hard texts, and of texts against images and the queue."""
    to_b = np.concatenate([logits(width), logits(width, "image", "hard")], 1)
    return to_b, np.concatenate([logits(width).T, logits(width, "text", "queue")], 1)


def info_nce_with_extra(width=D):
    return -sum(np.diag(log_softmax(x, 1)).mean() for x in with_extra(width)) / 2


def test_extra_rows_of_any_shape_are_normalized_and_are_negatives():
    close(value(Contrastive("image", "text", **EXTRA)), info_nce_with_extra())
    pairs = np.log1p(np.exp(-(2 * np.eye(B) - 1) * (logits() - 2))).sum()
    negatives = sum(np.log1p(np.exp(x[:, B:] - 2)).sum() for x in with_extra())
    close(value(Sigmoid("image", "text", **EXTRA)), (pairs + negatives) / B)


def test_extra_rows_that_do_not_exist_or_are_a_right_answer_are_no_negatives():
    there = np.array([[1, 1], [1, 0], [1, 1], [1, 1], [1, 1], [0, 0], [1, 1], [1, 1]], bool)
    own = np.where(np.arange(16).reshape(B, 2) % 3, 90 + np.arange(16).reshape(B, 2), BATCH["text_id"][:, None])
    fields = {"hard/present": there, "hard_id": own.astype(np.int32)}
    alike = BATCH["text_id"][:, None] == BATCH["text_id"]
    met = there.reshape(-1)[None] & (BATCH["text_id"][:, None] != own.reshape(-1)[None])
    found = value(
        Contrastive("image", "text", direction="a_to_b", extra_b="hard", positives="masked", ids=("label", "text_id")),
        {**BATCH, **fields, "label": np.arange(B, dtype=np.int32)},
    )
    texts = np.where(alike & ~np.eye(B, dtype=bool), -np.inf, logits())
    hard = np.where(met, logits(a="image", b="hard"), -np.inf)
    close(found, -np.diag(log_softmax(np.concatenate([texts, hard], 1), 1)).mean())
    without = value(Contrastive("image", "text", direction="a_to_b", extra_b="hard"), {**BATCH, **fields})
    hard = np.where(there.reshape(-1)[None], logits(a="image", b="hard"), -np.inf)
    close(without, -np.diag(log_softmax(np.concatenate([logits(), hard], 1), 1)).mean())


def test_matryoshka_cuts_extra_rows_too():
    term = Matryoshka(Contrastive("image", "text", **EXTRA), (2, D))
    close(value(term), info_nce_with_extra(2) + info_nce_with_extra())


def test_pairs_have_the_weights_of_their_field():
    trust = np.float64(BATCH["trust"])
    both = np.diag(log_softmax(logits(), 0)) + np.diag(log_softmax(logits(), 1))
    close(value(Contrastive("image", "text", weights="trust")), -(trust * both).sum() / trust.sum() / 2)
    each = np.log1p(np.exp(-(2 * np.eye(B) - 1) * (logits() - 2))) * (trust + trust[:, None]) / 2
    close(value(Sigmoid("image", "text", weights="trust")), each.sum() / trust.sum())


def test_sigmoid_takes_pairs_of_equal_ids_for_partners():
    alike = BATCH["text_id"][:, None] == BATCH["text_id"]
    each = np.log1p(np.exp(np.where(alike, -1, 1) * (logits() - 2)))
    close(value(Sigmoid("image", "text", positives="shared", ids=("text_id",))), each.sum() / B)


def test_matryoshka_is_the_weighted_sum_over_widths_each_normalized_anew():
    term = Matryoshka(Contrastive("image", "text"), (2, 4, 6), (1.0, 0.5, 2.0))
    each = [info_nce(logits(width)) for width in (2, 4, 6)]
    loss, metrics = jax.jit(term)(OUTPUTS, BATCH, ctx())
    close(loss, each[0] + 0.5 * each[1] + 2 * each[2])
    for name, expected in zip(("d2", "d4", "d6"), each, strict=True):
        close(metrics[name], expected)
    close(value(Matryoshka(Contrastive("image", "text"), (2, 4))), each[0] + each[1])


def cross_entropy(width=4):
    """The loss of each row."""
    x = np.float64(OUTPUTS["image"][:, :width]) @ np.float64(OUTPUTS["classes"][:, :width]).T + OUTPUTS["classes/bias"]
    return -log_softmax(x, 1)[np.arange(B), BATCH["label"]]


def test_cross_entropy_is_the_mean_over_rows_that_have_a_label():
    close(value(CrossEntropy("image")), cross_entropy()[BATCH["label"] >= 0].mean())


def test_matryoshka_of_a_sum_over_rows_is_one_too():
    term = Matryoshka(CrossEntropy("image"), (2, 4), (1.0, 3.0))
    assert term.separable
    loss, metrics = term(OUTPUTS, BATCH, ctx())
    close(loss, (cross_entropy(2) + 3 * cross_entropy(4))[BATCH["label"] >= 0].mean())
    assert metrics == {}
    np.testing.assert_array_equal(term.example_weights(BATCH), BATCH["label"] >= 0)


@spec
class First(Term):
    """The first number of a row."""

    separable: ClassVar[bool] = True

    def per_example(self, outputs, batch, ctx):
        return jnp.asarray(outputs["image"][:, 0])


def test_a_sum_over_rows_weighs_every_row_alike_and_a_batch_without_weight_has_no_loss():
    close(First()(OUTPUTS, BATCH, ctx())[0], OUTPUTS["image"][:, 0].mean())
    nothing = {**BATCH, "label": np.full(B, -1, np.int32)}
    assert float(value(CrossEntropy("image"), nothing)) == 0


def test_the_objective_is_the_sum_of_its_terms_with_weights_in_time():
    terms = {
        "pair": Contrastive("image", "text", weight=Linear(start=1.0, end=3.0)),
        "cut": Matryoshka(Contrastive("image", "text"), (2,), weight=Constant(value=0.5)),
        "first": First(),
    }
    loss, metrics = jax.jit(lambda ctx: evaluate(terms, OUTPUTS, BATCH, ctx))(ctx(5))
    pair, cut, first = info_nce(logits()), info_nce(logits(2)), OUTPUTS["image"][:, 0].mean()
    close(loss, 2 * pair + 0.5 * cut + first)
    expected = {"loss/pair": pair, "loss/cut": cut, "loss/cut/d2": cut, "loss/first": first}
    assert metrics.keys() == expected.keys()
    for name, number in expected.items():
        close(metrics[name], number)


def test_a_wrapper_reads_what_its_term_reads():
    term = Contrastive("a", "b", scale="tau", positives="masked", ids=("text_id",))
    assert (term.reads, term.needs, term.embeddings) == (("a", "b", "tau"), ("text_id",), ("a", "b"))
    wrapped = Matryoshka(term, (2,))
    assert (wrapped.reads, wrapped.needs, wrapped.embeddings) == (term.reads, term.needs, term.embeddings)
    assert not wrapped.separable


def test_a_term_says_all_that_it_reads():
    pair = Sigmoid("a", "b", positives="shared", ids=("text_id",), weights="trust", **EXTRA)
    assert pair.reads == ("a", "b", "queue", "hard", "scale", "bias")
    assert (pair.needs, pair.embeddings) == (("text_id", "trust"), ("a", "b", "queue", "hard"))


def test_mistakes_are_told():
    pair = Contrastive("image", "text")
    assert problems(dataclasses.replace(pair, positives="masked", label_smoothing=1.0)) == [
        "positives='masked' and ids=() do not fit: ids say which other pairs are positives",
        "label_smoothing is a share: at least 0 and below 1, got 1.0",
    ]
    assert problems(Sigmoid("image", "text", ids=("text_id",))) == [
        "positives='pair' and ids=('text_id',) do not fit: ids say which other pairs are positives"
    ]
    assert problems(Matryoshka(First(), (0,), (1.0, 2.0))) == [
        "dims are widths, at least one of them and each at least 1, got (0,)",
        "1 dims need as many weights, got 2",
        "First names no embeddings that could be cut",
    ]
    with pytest.raises(ValueError, match="Matryoshka cuts 'image' to 7 numbers, and it has 6"):
        Matryoshka(pair, (7,))(OUTPUTS, BATCH, ctx())


def test_rows_that_lack_a_modality_take_part_in_the_pairs_that_they_have():
    """All pairs of three towers equal the sum over pairs of a loss on the rows that have both."""
    random = np.random.default_rng(0)
    names = ("light", "spectrum", "text")
    outputs = {name: jnp.asarray(random.normal(size=(7, 4)), jnp.float32) for name in names}
    there = {name: np.arange(7) % 4 != i for i, name in enumerate(names)}
    batch = {f"{name}/present": jnp.asarray(here) for name, here in there.items()}
    unit = {name: np.float64(x) / np.linalg.norm(x, axis=1, keepdims=True) for name, x in outputs.items()}
    for a, b in itertools.combinations(names, 2):
        both = there[a] & there[b]
        logits = 5.0 * unit[a][both] @ unit[b][both].T
        # A present row of one side is a candidate for the other also where its own partner is absent.
        wide, tall = 5.0 * unit[a][both] @ unit[b][there[b]].T, 5.0 * unit[b][both] @ unit[a][there[a]].T
        expected = sum(np.mean(np.log(np.exp(candidates).sum(axis=1)) - np.diag(logits)) for candidates in (wide, tall))
        term = Contrastive(a, b, direction="sum")
        found, _ = term({**outputs, "scale": jnp.float32(5.0)}, batch, ctx())
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32, against float64
