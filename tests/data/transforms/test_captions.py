"""Captions are drawn with their probabilities, and the first one is taken outside training."""

import numpy as np

from jaxrep.data.transforms.captions import SampleCaption
from jaxrep.spec import problems
from tests.helpers.pairs import ROWS, Pairs


def test_captions_are_drawn_by_probability_and_repeat():
    source = SampleCaption(source=Pairs(), probabilities={"caption": 1, "more": 3})
    assert list(source.fields()) == ["image", "text", "text_id"]
    examples = source.open()
    rows, keys = np.zeros(8_000, np.int64) + 4, np.arange(8_000, dtype=np.uint64)
    actual = examples.gather(rows, keys)
    kinds, counts = np.unique(actual["text"], return_counts=True)
    assert kinds.tolist() == ["c4", "m4-0", "m4-1", "m4-2"]
    assert abs(counts - 2_000).max() < 5 * np.sqrt(8_000 * 0.25 * 0.75)  # five standard deviations
    ids = {"c4": 4, "m4-0": 104, "m4-1": 204, "m4-2": 304}
    assert actual["text_id"].tolist() == [ids[text] for text in actual["text"]]
    again = examples.gather(rows[500:600], keys[500:600])  # a draw depends on its own key alone
    assert again["text"] == actual["text"][500:600]


def test_without_keys_first_caption_is_taken():
    examples = SampleCaption(source=Pairs(), probabilities={"more": 1, "caption": 1}).open()
    assert examples[3]["text"] == "m3-0" and examples.gather(ROWS)["text"][0] == "m4-0"
    assert examples.column("text")[3] == ("m3-0", "m3-1", "m3-2", "c3")  # a tokenizer learns from all


def test_problems_are_reported():
    assert "no field 'title'" in problems(SampleCaption(source=Pairs(), probabilities={"title": 1}))[0]
    assert "no text" in problems(SampleCaption(source=Pairs(), probabilities={"caption_id": 1}))[0]
    assert "one of them above 0" in problems(SampleCaption(source=Pairs(), probabilities={"caption": 0}))[0]
