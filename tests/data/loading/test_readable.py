"""Evaluations skip and report unreadable examples; too many are an error."""

import numpy as np
import pytest

from jaxrep.data.loading import readable
from jaxrep.data.loading.readable import collect_skipped, read_blocks
from jaxrep.data.source import Examples
from jaxrep.errors import BadSample, JaxrepError


class Faulty(Examples):
    """Hold examples 0 to 299, some of them unreadable."""

    def __init__(self, *bad):
        self.bad = bad

    def __len__(self):
        return 300

    def __getitem__(self, index):
        if index in self.bad:
            raise BadSample(f"a.tar, member {index}.jpg", "the image is empty")
        return {"index": np.int64(index), "text": f"number {index}"}


@pytest.mark.parametrize("size", [1, 7, 128, 300, 1000])
def test_readable_examples_keep_order_and_skipped_ones_are_reported(capsys, size):
    found = list(read_blocks(Faulty(0, 128, 299), size))
    expected = np.delete(np.arange(300), [0, 128, 299])
    np.testing.assert_array_equal(np.concatenate([columns["index"] for columns in found]), expected)
    assert [text for columns in found for text in columns["text"]] == [f"number {index}" for index in expected]
    said = "3 examples cannot be read (the first: a.tar, member 0.jpg: the image is empty) of 300: the evaluation"
    assert capsys.readouterr().err.startswith(said)


def test_collect_skipped():
    with collect_skipped() as outer, collect_skipped() as found:
        for _ in range(2):
            list(read_blocks(Faulty(0, 299), 128))
    assert found == {f"a.tar, member {index}.jpg: the image is empty" for index in (0, 299)} and not outer


def test_no_report_without_bad_samples(capsys):
    assert sum(len(columns["text"]) for columns in read_blocks(Faulty(), 128)) == 300
    assert capsys.readouterr().err == ""


def test_too_many_bad_samples_are_an_error(monkeypatch):
    with pytest.raises(
        JaxrepError, match=r"^4 examples cannot be read \(the first: a.tar, .*, more than 1% of 300: repair"
    ):
        list(read_blocks(Faulty(5, 6, 7, 8), 1000))
    monkeypatch.setattr(readable, "MAX_BAD_SHARE", 0.0)
    assert len(list(read_blocks(Faulty(5), 300))) == 1  # one may be
