"""Check how a contrastive term finds its candidates among outputs and fields, and what it says of those that lack."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.objectives import Contrastive, Sigmoid, evaluate
from jaxrep.spec import problems
from tests.helpers import loss_oracle as oracle

B, Q, M, D = 6, 4, 3, 5
LABELS = np.array([0, 1, 0, 2, -1, -1], np.int32)
QUEUE_IDS = np.array([0, 2, -1, 0], np.int32)
OUTPUTS: dict[str, Any] = {
    "a": 2 * oracle.rows(0, B, D),
    "b": 3 * oracle.rows(1, B, D),
    "queue": oracle.rows(2, Q, D),
    "hard": 2 * oracle.rows(3, B * M, D).reshape(B, M, D),
    "hard/present": np.arange(B * M).reshape(B, M) % 3 > 0,
    "scale": np.float32(4),
    "bias": np.float32(-2),
}
UNIT = [oracle.rows(0, B, D), oracle.rows(1, B, D), 4]


def value(term, outputs=OUTPUTS, labels=LABELS):
    return jax.jit(lambda outputs, labels: term(outputs, {"label": labels}, StepContext())[0])(outputs, labels)


def test_ids_of_a_queue_are_an_output():
    term = Contrastive(
        "a", "b", extra_b="queue", in_batch=False, direction="a_to_b", duplicates="ignore", ids=("label",)
    )
    for outputs, ids in ((OUTPUTS, np.full(Q, -1)), ({**OUTPUTS, "queue_id": QUEUE_IDS}, QUEUE_IDS)):
        marks = (oracle.NO_MARKS, ((ids,), None))
        want = oracle.info_nce(
            *UNIT,
            extra_b=OUTPUTS["queue"],
            in_batch=False,
            direction="a_to_b",
            duplicates="ignore",
            ids=(LABELS,),
            marks=marks,
        )
        np.testing.assert_allclose(value(term, outputs), want, rtol=1e-5)


def test_absent_rows_of_a_queue_are_an_output():
    present = np.arange(Q) % 2 > 0
    term = Contrastive("a", "b", extra_b="queue", in_batch=False, direction="a_to_b")
    marks = (oracle.NO_MARKS, ((), present))
    want = oracle.info_nce(*UNIT, extra_b=OUTPUTS["queue"], in_batch=False, direction="a_to_b", marks=marks)
    np.testing.assert_allclose(value(term, {**OUTPUTS, "queue/present": present}), want, rtol=1e-5)


def test_rows_of_single_rows_are_normalized_and_may_be_absent():
    hard = oracle.Rows(oracle.rows(3, B * M, D).reshape(B, M, D), (), OUTPUTS["hard/present"])
    want = oracle.info_nce(*UNIT, row_extra_b=hard, same_side=True)
    np.testing.assert_allclose(value(Contrastive("a", "b", row_extra_b="hard", same_side=True)), want, rtol=1e-5)
    want = oracle.sigmoid(*UNIT, -2, row_extra_b=hard)
    np.testing.assert_allclose(value(Sigmoid("a", "b", row_extra_b="hard")), want, rtol=1e-5)


def test_unlabeled_rows_are_positives_of_their_own_views_alone():
    term = Contrastive("a", "b", same_side=True, duplicates="supcon", ids=("label",))
    want = oracle.info_nce(*UNIT, same_side=True, duplicates="supcon", ids=(LABELS,))
    np.testing.assert_allclose(value(term), want, rtol=1e-5)
    alone = np.where(LABELS < 0, 10 + np.arange(B), LABELS).astype(np.int32)
    np.testing.assert_allclose(value(term), value(term, labels=alone), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"in_batch": False, "direction": "a_to_b"}, "in_batch=False leaves extra rows alone as negatives"),
        ({"in_batch": False, "extra_b": "queue"}, "has none on side a"),
        ({"same_side": True, "duplicates": "supcon"}, "do not fit: ids tell which pairs are duplicates"),
        ({"same_side": True, "in_batch": False, "extra_a": "q", "extra_b": "q"}, "in_batch=False leaves them out"),
        ({"decoupled": True, "label_smoothing": 0.1}, "over which label_smoothing would spread it"),
        ({"row_extra_a": "hard", "direction": "a_to_b"}, "has no use for row_extra_a"),
    ],
)
def test_candidates_that_do_not_fit_are_one_sentence(fields, sentence):
    (problem,) = problems(Contrastive("a", "b", **fields))
    assert sentence in problem


def test_supcon_without_labels_and_a_narrow_queue_are_told_before_the_first_step():
    term = Contrastive("a", "b", same_side=True, duplicates="supcon", ids=("label",))
    with pytest.raises(ValueError, match=r"objective\.supcon reads the field 'label', which is missing"):
        evaluate({"supcon": term}, OUTPUTS, {}, StepContext())
    moco = Contrastive("a", "b", extra_b="queue", in_batch=False, direction="a_to_b")
    with pytest.raises(ValueError, match="extra_b is 4 wide and the rows it meets are 5 wide"):
        jax.eval_shape(lambda: moco({**OUTPUTS, "queue": OUTPUTS["queue"][:, 1:]}, {}, StepContext())[0])
