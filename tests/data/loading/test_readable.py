"""Evaluations skip and report unreadable examples; too many are an error."""

import contextlib
import threading
import time

import numpy as np
import pytest

from jaxrep.data._util import parallel
from jaxrep.data.loading import readable
from jaxrep.data.loading.readable import collect_skipped, read_blocks, read_columns, rows_ahead
from jaxrep.data.source import Columns, Examples
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


@pytest.mark.parametrize("prepared", [False, True])
def test_threads_read_ahead_within_two_blocks_in_order(monkeypatch, prepared):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 4)
    threads, read = set(), []

    class Slow(Faulty):
        def __getitem__(self, index):
            threads.add(threading.get_ident())
            read.append(index)
            time.sleep(0.001 * (index % 3))
            return super().__getitem__(index)

    prepare = (lambda row: row | {"text": row["text"].upper()}) if prepared else (lambda row: row)
    with contextlib.closing(rows_ahead(Slow(11, 40), range(5, 105), 10, prepare)) as futures:
        rows = [next(futures).result() for _ in range(60)]
        assert len(read) <= 60 + 2 * 10 + 1
    assert len(threads) == 4 and threading.get_ident() not in threads
    assert [index for index, row in enumerate(rows, 5) if isinstance(row, BadSample)] == [11, 40]
    texts = [f"number {index}" for index in range(5, 65) if index not in (11, 40)]
    texts = [text.upper() for text in texts] if prepared else texts
    assert [row["text"] for row in rows if not isinstance(row, BadSample)] == texts


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


class Gaps(Columns):
    """Columns whose examples 2 and 5 cannot be read: the columns hold what stands for an unknown value there."""

    def gather(self, indices, keys=None, substitute=None):
        if bad := sorted({2, 5}.intersection(np.asarray(indices).tolist())):
            raise BadSample(f"a.csv, line {bad[0] + 2}", "the text is empty")
        return super().gather(indices, keys, substitute)


@pytest.mark.parametrize(
    ("column", "left_out"),
    [
        (["a", "b", "", "d", "e", ""], [2, 5]),
        ([("a", "b"), ("c", "d"), ("", "f"), ("g", "h"), ("i", "j"), ("k", "")], [2, 5]),
        (["", "b", "", "d", "e", ""], [0, 2, 5]),  # an empty text that can be read is no text either
        (np.array([0, -1, -1, 3, 4, -1], np.int32), [2, 5]),  # the -1 of example 1 can be read
        (np.array([0.5, -1, np.nan, np.nan, 4, np.nan]), [2, 3, 5]),
        (np.array([[0, 1], [2, 3], [4, -1], [6, 7], [8, 9], [-1, -1]]), [2, 5]),
    ],
)
def test_columns_leave_out_and_count_what_cannot_be_read(column, left_out, capsys):
    examples = Gaps({"column": column, "other": np.arange(6)})
    with collect_skipped() as skipped:
        found = read_columns(examples, ["column", "other"])
    kept = np.delete(np.arange(6), left_out)
    np.testing.assert_array_equal(found["other"], kept)
    assert [*map(str, found["column"])] == [str(column[index]) for index in kept]
    assert len(skipped) == len(left_out) and f"{len(left_out)} examples cannot be read" in capsys.readouterr().err


def test_columns_without_any_value_are_an_error():
    with pytest.raises(
        JaxrepError, match=r"^no example has 'text' and 'score': 3 examples cannot be read \(the first: "
    ):
        read_columns(Columns({"text": ["a", "", ""], "score": np.array([np.nan, 1, 2])}), ["text", "score"])
