"""Check terms and the objective against NumPy in float64."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.objectives.base import SeparableTerm, evaluate
from jaxrep.objectives.contrastive import Contrastive, Sigmoid
from jaxrep.objectives.separable import CrossEntropy
from jaxrep.objectives.wrappers import Matryoshka
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
PRESENT = {
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


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5)  # float32 sums of 8 x 8 terms


def test_contrastive_equals_info_nce_of_named_outputs():
    close(value(Contrastive("image", "text")), info_nce(logits()))
    close(value(Contrastive("text", "image", direction="a_to_b")), -np.diag(log_softmax(logits(), 0)).mean())


def test_contrastive_ignores_duplicates():
    duplicates = BATCH["text_id"][:, None] == BATCH["text_id"]
    masked = np.where(duplicates & ~np.eye(B, dtype=bool), -np.inf, logits())
    close(value(Contrastive("image", "text", duplicates="ignore", ids=("text_id",))), info_nce(masked))


def test_absent_rows_are_neither_candidates_nor_counted():
    both = PRESENT["image/present"] & PRESENT["text/present"]
    rows = log_softmax(np.where(PRESENT["text/present"][None], logits(), -np.inf), 1)
    columns = log_softmax(np.where(PRESENT["image/present"][:, None], logits(), -np.inf), 0)
    expected = -(np.diag(rows)[both].mean() + np.diag(columns)[both].mean()) / 2
    close(value(Contrastive("image", "text"), {**BATCH, **PRESENT}), expected)


def test_sigmoid_equals_loss_of_named_outputs():
    signed = (2 * np.eye(B) - 1) * (logits() - 2)
    close(value(Sigmoid("image", "text")), np.log1p(np.exp(-signed)).sum() / B)


def test_sigmoid_ignores_duplicates():
    duplicates = (BATCH["text_id"][:, None] == BATCH["text_id"]) & ~np.eye(B, dtype=bool)
    each = np.log1p(np.exp(-(2 * np.eye(B) - 1) * (logits() - 2)))
    close(
        value(Sigmoid("image", "text", duplicates="ignore", ids=("text_id",))), np.where(duplicates, 0, each).sum() / B
    )


EXTRA: Any = {"extra_a": "queue", "extra_b": "hard"}


def with_extra(width=D):
    """Rows of images against texts and hard texts, and of texts against images and the queue."""
    to_b = np.concatenate([logits(width), logits(width, "image", "hard")], 1)
    return to_b, np.concatenate([logits(width).T, logits(width, "text", "queue")], 1)


def info_nce_with_extra(width=D):
    return -sum(np.diag(log_softmax(x, 1)).mean() for x in with_extra(width)) / 2


def test_extra_rows_of_any_shape_are_negatives():
    close(value(Contrastive("image", "text", **EXTRA)), info_nce_with_extra())
    pairs = np.log1p(np.exp(-(2 * np.eye(B) - 1) * (logits() - 2))).sum()
    negatives = sum(np.log1p(np.exp(x[:, B:] - 2)).sum() for x in with_extra())
    close(value(Sigmoid("image", "text", **EXTRA)), (pairs + negatives) / B)


def test_absent_and_duplicate_extra_rows_are_no_negatives():
    present = np.array([[1, 1], [1, 0], [1, 1], [1, 1], [1, 1], [0, 0], [1, 1], [1, 1]], bool)
    hard_ids = np.where(np.arange(16).reshape(B, 2) % 3, 90 + np.arange(16).reshape(B, 2), BATCH["text_id"][:, None])
    fields = {"hard/present": present, "hard_id": hard_ids.astype(np.int32)}
    duplicates = BATCH["text_id"][:, None] == BATCH["text_id"]
    met = present.reshape(-1)[None] & (BATCH["text_id"][:, None] != hard_ids.reshape(-1)[None])
    loss = value(
        Contrastive("image", "text", direction="a_to_b", extra_b="hard", duplicates="ignore", ids=("label", "text_id")),
        {**BATCH, **fields, "label": np.arange(B, dtype=np.int32)},
    )
    texts = np.where(duplicates & ~np.eye(B, dtype=bool), -np.inf, logits())
    hard = np.where(met, logits(a="image", b="hard"), -np.inf)
    close(loss, -np.diag(log_softmax(np.concatenate([texts, hard], 1), 1)).mean())
    without = value(Contrastive("image", "text", direction="a_to_b", extra_b="hard"), {**BATCH, **fields})
    hard = np.where(present.reshape(-1)[None], logits(a="image", b="hard"), -np.inf)
    close(without, -np.diag(log_softmax(np.concatenate([logits(), hard], 1), 1)).mean())


def test_matryoshka_cuts_extra_rows():
    term = Matryoshka(Contrastive("image", "text", **EXTRA), (2, D))
    close(value(term), info_nce_with_extra(2) + info_nce_with_extra())


def test_pairs_are_weighted_by_field():
    trust = np.float64(BATCH["trust"])
    both = np.diag(log_softmax(logits(), 0)) + np.diag(log_softmax(logits(), 1))
    close(value(Contrastive("image", "text", weights="trust")), -(trust * both).sum() / trust.sum() / 2)
    each = np.log1p(np.exp(-(2 * np.eye(B) - 1) * (logits() - 2))) * (trust + trust[:, None]) / 2
    close(value(Sigmoid("image", "text", weights="trust")), each.sum() / trust.sum())


def test_sigmoid_takes_duplicates_as_positives():
    duplicates = BATCH["text_id"][:, None] == BATCH["text_id"]
    each = np.log1p(np.exp(np.where(duplicates, -1, 1) * (logits() - 2)))
    close(value(Sigmoid("image", "text", duplicates="positive", ids=("text_id",))), each.sum() / B)


def test_matryoshka_is_weighted_sum_over_normalized_widths():
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


def test_cross_entropy_is_mean_over_labeled_rows():
    close(value(CrossEntropy("image")), cross_entropy()[BATCH["label"] >= 0].mean())


def test_matryoshka_of_separable_term_is_separable():
    term = Matryoshka(CrossEntropy("image"), (2, 4), (1.0, 3.0))
    assert term.separable
    loss, metrics = term(OUTPUTS, BATCH, ctx())
    close(loss, (cross_entropy(2) + 3 * cross_entropy(4))[BATCH["label"] >= 0].mean())
    assert metrics == {}
    np.testing.assert_array_equal(term.example_weights(BATCH), BATCH["label"] >= 0)


@spec
class First(SeparableTerm):
    """Return the first number of each row."""

    def per_example(self, outputs, batch, ctx):
        return jnp.asarray(outputs["image"][:, 0])


def test_separable_term_without_weights_is_mean_and_zero_weight_gives_zero():
    close(First()(OUTPUTS, BATCH, ctx())[0], OUTPUTS["image"][:, 0].mean())
    nothing = {**BATCH, "label": np.full(B, -1, np.int32)}
    assert float(value(CrossEntropy("image"), nothing)) == 0


def test_objective_is_sum_of_terms_with_scheduled_weights():
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


def test_problems_are_named():
    pair = Contrastive("image", "text")
    assert problems(dataclasses.replace(pair, duplicates="ignore", label_smoothing=1.0)) == [
        "label_smoothing: expected a number of at least 0 and below 1, got 1.0"
    ]
    assert problems(dataclasses.replace(pair, duplicates="ignore")) == [
        "duplicates='ignore' and ids=() do not fit: ids tell which pairs are duplicates"
    ]
    assert problems(Sigmoid("image", "text", ids=("text_id",))) == [
        "duplicates='negative' and ids=('text_id',) do not fit: ids tell which pairs are duplicates"
    ]
    assert problems(Matryoshka(pair, (0,))) == ["dims.0: expected a number of at least 1, got 0"]
    assert problems(Matryoshka(First(), (), (1.0,))) == [
        "dims are widths, at least one of them, got ()",
        "0 dims need as many weights, got 1",
        "First names no embeddings that could be cut",
    ]
    with pytest.raises(ValueError, match="Matryoshka cuts 'image' to 7 numbers, and it has 6"):
        Matryoshka(pair, (7,))(OUTPUTS, BATCH, ctx())


def test_rows_without_a_modality_take_part_in_other_pairs():
    """Compare all pairs of three towers with losses on the rows that have both modalities."""
    random = np.random.default_rng(0)
    names = ("light", "spectrum", "text")
    outputs = {name: jnp.asarray(random.normal(size=(7, 4)), jnp.float32) for name in names}
    present = {name: np.arange(7) % 4 != i for i, name in enumerate(names)}
    batch = {f"{name}/present": jnp.asarray(mask) for name, mask in present.items()}
    unit = {name: np.float64(x) / np.linalg.norm(x, axis=1, keepdims=True) for name, x in outputs.items()}
    for a, b in itertools.combinations(names, 2):
        both = present[a] & present[b]
        logits = 5.0 * unit[a][both] @ unit[b][both].T
        # A present row of one side is a candidate for the other also where its own partner is absent.
        wide, tall = 5.0 * unit[a][both] @ unit[b][present[b]].T, 5.0 * unit[b][both] @ unit[a][present[a]].T
        expected = sum(np.mean(np.log(np.exp(candidates).sum(axis=1)) - np.diag(logits)) for candidates in (wide, tall))
        term = Contrastive(a, b, direction="sum")
        loss, _ = term({**outputs, "scale": jnp.float32(5.0)}, batch, ctx())
        np.testing.assert_allclose(loss, expected, rtol=1e-5)  # float32, against float64
