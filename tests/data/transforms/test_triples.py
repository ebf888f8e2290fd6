"""Triples are parsed from lines or from a name, and flattened to texts."""

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms.triples import ParseTriples, exchanges, parse_lines, parse_name
from jaxrep.data.transforms.word_swaps import Negative
from jaxrep.spec import problems, spec

NAMES = ["woman with veil: dark skin tone, red hair", "sun", "women holding hands: dark skin tone"]


def test_parse_lines_skips_other_lines():
    assert parse_lines("cat | sits on | mat\n\ncat | black\n cat|is|black ") == [
        ("cat", "sits on", "mat"),
        ("cat", "is", "black"),
    ]


def test_parse_name_gives_relations_and_details():
    assert parse_name(NAMES[0]) == [
        ("woman", "with", "veil"),
        ("woman", "has", "dark skin tone"),
        ("woman", "has", "red hair"),
    ]
    assert parse_name("person in wheelchair facing right") == [
        ("person", "in", "wheelchair"),
        ("person", "facing", "right"),
    ]
    assert parse_name("sun") == []


def test_objects_and_attributes_are_exchanged():
    caption = "A black cat sits on a red mat"
    out = parse_lines("cat | is | black\nmat | is | red\nmat | is | black\ncat | sits on | mat\ncat | sees | dog")
    assert exchanges(caption, out) == [
        Negative("A black mat sits on a red cat", "object"),
        Negative("A red cat sits on a black mat", "attribute"),
    ]
    assert exchanges("two hands", parse_name("two hands")) == []


@spec
class Names(Source):
    """Three names."""

    def fields(self):
        return {"text": Field((), "str")}

    def open(self):
        return Columns({"text": NAMES})


def test_triples_are_flattened_and_padded():
    source = ParseTriples(source=Names(), field="text", form="names", count=2)
    assert source.fields()["knowledge"] == Field((6,), "str")
    rows = source.open().gather(np.arange(3))
    np.testing.assert_array_equal(rows["knowledge/present"], [True, False, True])
    np.testing.assert_array_equal(source.open().column("knowledge/present"), [True, False, True])
    actual = rows["knowledge"]
    assert actual[0] == ("woman", "with", "veil", "woman", "has", "dark skin tone")  # the third is left out
    assert actual[1] == ("",) * 6
    assert actual[2] == ("women", "holding", "hands", "women", "has", "dark skin tone")
    assert source.open().column("knowledge") == actual and source.open().column("text") == NAMES


def test_problems_are_reported():
    assert "at least 1, got 0" in problems(ParseTriples(source=Names(), field="text", count=0))[0]
    assert "no field 'triples'" in problems(ParseTriples(source=Names()))[0]
