"""Fields are selected and renamed, and weights are added."""

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.source import Columns
from jaxrep.data.transforms.fields import AddWeights, SelectFields
from jaxrep.data.transforms.subsets import Filter, Where
from jaxrep.errors import UsageError
from jaxrep.spec import problems
from tests.helpers.pairs import KEYS, ROWS, SCORES, N, Pairs


def test_select_fields_renames_and_drops():
    source = SelectFields(source=Pairs(), names={"image": "image", "text": "caption", "text_id": "caption_id"})
    assert source.fields() == {
        "image": Field((2, 2, 3), "uint8"),
        "text": Field((), "str"),
        "text_id": Field((), "int32"),
    }
    examples = source.open()
    actual = examples.gather(ROWS, KEYS)
    assert list(actual) == ["image", "text", "text_id"] and actual["text"] == ["c4", "c0", "c11", "c6"]
    assert examples[3]["text"] == "c3" and examples.column("text")[2] == "c2"
    np.testing.assert_array_equal(examples.column("score"), SCORES)  # an order or a filter may want it
    assert examples.shard(4) == "2.tar" and list(examples.shard_ends) == [3, 3, 8, N]
    assert "did you mean caption?" in problems(SelectFields(source=Pairs(), names={"text": "captoin"}))[0]


def test_add_weights():
    source = AddWeights(source=Pairs(), column="score", default=0.5)
    assert source.fields()["weight"] == Field((), "float32")
    actual = source.open().gather(ROWS)
    assert actual["weight"].dtype == np.float32
    np.testing.assert_array_equal(actual["weight"], np.array([0.4, 0, 1.1, 0.6], np.float32))
    assert source.open()[5]["weight"] == 0.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0.5", "", "2"], [0.5, 1, 2]),
        (["0.5", "good"], r"the column 'score' holds words, as 'good', and weights are numbers"),
        ([1.0, np.nan, -0.5], [1, 1, -0.5]),  # as cosines
        ([1.0, -np.inf], r"the column 'score' holds -inf, and a weight is a finite number in float32"),
        ([1.0, 1e39], r"the column 'score' holds 1e\+39, and a weight"),
    ],
)
def test_weights_are_finite_numbers(values, expected):
    class InMemory(Pairs):
        def open(self):
            scores = values if isinstance(values[0], str) else np.array(values)
            return Columns({"caption": ["a"] * len(values), "score": scores})

    source = AddWeights(source=InMemory(), column="score")
    if isinstance(expected, list):
        assert source.open().gather(np.arange(3))["weight"].tolist() == expected
    else:
        with pytest.raises(UsageError, match=expected):
            source.open()


def test_replacement_of_bad_sample_has_its_own_weight():
    source = AddWeights(source=SelectFields(source=Pairs(), names={"text": "caption"}), column="score")
    asked = []
    actual = source.open().gather(np.array([1, 7]), KEYS[:2], lambda row, error: asked.append((row, str(error))) or 9)
    assert asked == [(1, "2.tar, member 7: it is empty")]
    assert actual["text"] == ["c1", "c9"]
    np.testing.assert_array_equal(actual["weight"], np.array([0.1, 0.9], np.float32))
    few = Filter(source=Pairs(), where=(Where(column="score", at_least=0.6),)).open()
    assert few.gather(np.array([1]), KEYS[:1], lambda row, error: 2)["caption"] == ["c8"]


def test_add_weights_of_columns_in_memory():
    class InMemory(Pairs):
        def open(self):
            return Columns({"caption": ["a", "b"], "score": np.array([2.0, 3.0])})

    actual = AddWeights(source=InMemory(), column="score").open().gather(np.array([1, 0]))
    assert actual["caption"] == ["b", "a"] and actual["weight"].tolist() == [3.0, 2.0]
