"""What an evaluation cannot read it goes without, and says so; too much ends it."""

import numpy as np
import pytest

from jaxrep.data.loading import readable
from jaxrep.data.loading.readable import blocks, noted
from jaxrep.data.source import Examples
from jaxrep.errors import BadSample, JaxrepError


class Faulty(Examples):
    """Examples 0 to 299, of which some cannot be read."""

    def __init__(self, *bad):
        self.bad = bad

    def __len__(self):
        return 300

    def __getitem__(self, index):
        if index in self.bad:
            raise BadSample(f"a.tar, member {index}.jpg", "the picture is empty")
        return {"index": np.int64(index), "text": f"number {index}"}


@pytest.mark.parametrize("size", [1, 7, 128, 300, 1000])
def test_good_examples_come_in_their_order_and_bad_ones_are_told_once(capsys, size):
    found = list(blocks(Faulty(0, 128, 299), size))
    expected = np.delete(np.arange(300), [0, 128, 299])
    np.testing.assert_array_equal(np.concatenate([columns["index"] for columns in found]), expected)
    assert [text for columns in found for text in columns["text"]] == [f"number {index}" for index in expected]
    said = "3 examples cannot be read (the first: a.tar, member 0.jpg: the picture is empty) of 300: the evaluation"
    assert capsys.readouterr().err.startswith(said)


def test_what_is_gone_without_is_noted_once():
    with noted() as outer, noted() as found:
        for _ in range(2):
            list(blocks(Faulty(0, 299), 128))
    assert found == {f"a.tar, member {index}.jpg: the picture is empty" for index in (0, 299)} and not outer


def test_where_all_can_be_read_nothing_is_said(capsys):
    assert sum(len(columns["text"]) for columns in blocks(Faulty(), 128)) == 300
    assert capsys.readouterr().err == ""


def test_more_than_a_hundredth_ends_the_evaluation(monkeypatch):
    with pytest.raises(
        JaxrepError, match=r"^4 examples cannot be read \(the first: a.tar, .*, more than 1% of 300: repair"
    ):
        list(blocks(Faulty(5, 6, 7, 8), 1000))
    monkeypatch.setattr(readable, "MAX_BAD_SHARE", 0.0)
    assert len(list(blocks(Faulty(5), 300))) == 1  # one may be
