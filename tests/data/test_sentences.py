"""The first sentence of a caption is a text of its own, whose id says where two are the same."""

import numpy as np

from jaxrep.data.openmoji import OpenMoji
from jaxrep.data.select import First
from jaxrep.data.sentences import FirstSentence
from jaxrep.spec import problems

SOURCE = First(source=OpenMoji(image_size=24), count=400)


def test_the_beginning_of_a_name_is_what_comes_before_its_colon():
    source = FirstSentence(source=SOURCE, end=": ")
    examples = source.open()
    names = examples.column("text")
    columns = examples.gather(np.arange(len(examples)))
    assert columns["text"] == list(names)
    assert columns["short"] == examples.column("short") == [name.split(": ")[0] for name in names]
    assert any(short != name for short, name in zip(columns["short"], names, strict=True))
    same = columns["short_id"][:, None] == columns["short_id"]
    np.testing.assert_array_equal(same, np.array([[a == b for b in columns["short"]] for a in columns["short"]]))
    assert columns["short_id"].dtype == np.int32 and columns["short_id"].min() >= 0
    assert set(examples[3]) == set(source.fields())


def test_mistakes_are_told():
    assert problems(FirstSentence(source=SOURCE, of="caption"))[0].startswith("the source has no field 'caption'")
    assert problems(FirstSentence(source=SOURCE, end="")) == ["end is empty: say what a sentence ends with"]
    many = OpenMoji(languages=("en", "de"))
    assert "not one text an example" in problems(FirstSentence(source=many))[0]
