"""What captions say as triples: read from lines or off a name, laid out as texts."""

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms.triples import Triples, exchanges, of_name, parse
from jaxrep.data.transforms.word_swaps import Negative
from jaxrep.spec import problems, spec

NAMES = ["woman with veil: dark skin tone, red hair", "sun", "women holding hands: dark skin tone"]


def test_lines_are_read_and_what_is_no_triple_is_left_out():
    assert parse("cat | sits on | mat\n\ncat | black\n cat|is|black ") == [
        ("cat", "sits on", "mat"),
        ("cat", "is", "black"),
    ]


def test_a_name_says_its_relations_and_details():
    assert of_name(NAMES[0]) == [
        ("woman", "with", "veil"),
        ("woman", "has", "dark skin tone"),
        ("woman", "has", "red hair"),
    ]
    assert of_name("person in wheelchair facing right") == [
        ("person", "in", "wheelchair"),
        ("person", "facing", "right"),
    ]
    assert of_name("sun") == []


def test_objects_and_attributes_change_places_where_the_caption_has_them():
    caption = "A black cat sits on a red mat"
    said = parse("cat | is | black\nmat | is | red\nmat | is | black\ncat | sits on | mat\ncat | sees | dog")
    assert exchanges(caption, said) == [
        Negative("A black mat sits on a red cat", "object"),
        Negative("A red cat sits on a black mat", "attribute"),
    ]
    assert exchanges("two hands", of_name("two hands")) == []


@spec
class Names(Source):
    """Three names."""

    def fields(self):
        return {"text": Field((), "str")}

    def open(self):
        return Columns({"text": NAMES})


def test_triples_are_laid_out_one_after_the_other():
    source = Triples(source=Names(), of="text", form="names", count=2)
    assert source.fields()["knowledge"] == Field((6,), "str")
    rows = source.open().gather(np.arange(3))
    assert rows.keys() == source.fields().keys()
    np.testing.assert_array_equal(rows["knowledge/present"], [True, False, True])
    np.testing.assert_array_equal(source.open().column("knowledge/present"), [True, False, True])
    found = rows["knowledge"]
    assert found[0] == ("woman", "with", "veil", "woman", "has", "dark skin tone")  # the third is left out
    assert found[1] == ("",) * 6
    assert found[2] == ("women", "holding", "hands", "women", "has", "dark skin tone")
    assert source.open().column("knowledge") == found and source.open().column("text") == NAMES


def test_mistakes_are_told():
    assert "at least 1, got 0" in problems(Triples(source=Names(), of="text", count=0))[0]
    assert "no field 'triples'" in problems(Triples(source=Names()))[0]
