"""Class texts have shapes from the recipe and values from the class names of the data."""

import re

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.class_texts import ClassTexts, read_tables, table_fields, template_mistake
from jaxrep.data.source import Columns, Source
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.errors import UsageError
from jaxrep.prompts import class_embeddings
from jaxrep.spec import problems, spec

NAMES = ("a dog", "an elephant")


@spec
class Animals(Source):
    def fields(self):
        return {"label": Field((), "int32", 2), "size": Field((), "int32")}

    def open(self):
        return Columns({"label": np.array([0, 1]), "size": np.array([5, 9])}, {"label": NAMES})


def test_declared_table_shapes_match_read_arrays():
    tables, tokenizer = {"classes": ClassTexts(template="{}.", reserved_tokens=3)}, Bytes(length=18)
    fields = table_fields(tables, Animals(), tokenizer)
    values = read_tables(tables, Animals().open(), tokenizer.load(()))
    assert {path: (field.shape, field.dtype) for path, field in fields.items()} == {
        path: (array.shape, str(array.dtype)) for path, array in values.items()
    }
    ids, valid = tokenizer.load(())(["a dog.", "an elephant."])
    np.testing.assert_array_equal(values["tables/classes"], ids[:, :15])
    np.testing.assert_array_equal(values["tables/classes/valid"], valid[:, :15])


def test_table_errors():
    tokenizer = Bytes(length=10)
    with pytest.raises(UsageError, match="the text of class 'an elephant' has more than 9 tokens"):
        ClassTexts(reserved_tokens=1).read(Animals().open(), tokenizer.load(()))
    with pytest.raises(UsageError, match="the data has no field 'kind'"):
        ClassTexts(label="kind").fields(Animals(), tokenizer)
    with pytest.raises(UsageError, match="does not say how many classes 'size' has"):
        ClassTexts(label="size").fields(Animals(), tokenizer)
    with pytest.raises(UsageError, match="reserved_tokens=10 leaves no token of 10"):
        ClassTexts(reserved_tokens=10).fields(Animals(), tokenizer)
    with pytest.raises(UsageError, match="does not name the classes of 'size'"):
        ClassTexts(label="size").read(Animals().open(), tokenizer.load(()))
    assert problems(ClassTexts(template="a photo")) and problems(ClassTexts(reserved_tokens=-1))


@pytest.mark.parametrize(
    ("template", "mistake"),
    [
        ("a {}.", ""),
        ("{{a}} {}", ""),
        ("a photo", "'a photo' does not"),
        ("{} and {}", "'{} and {}' does not"),
        ("{{}}", "'{{}}' does not"),
        ("a {c}, {attribute}.", "'a {c}, {attribute}.' holds {c}"),
        ("a {0} photo of a {}", "'a {0} photo of a {}' holds {0}"),
        ("{!r}", "'{!r}' holds {!r}"),
        ("{:>10} {}", "'{:>10} {}' holds {:>10}"),
        ("{:{}}", "'{:{}}' holds {:{}}"),
        ("{.name}", "'{.name}' holds {.name}"),
        ("{}. }", "the braces of '{}. }' do not match"),
        ("{ {}", "the braces of '{ {}' do not match"),
    ],
)
def test_mistakes_of_templates(template, mistake):
    assert template_mistake(template, "{}") == mistake
    assert problems(ClassTexts(template=template)) == (
        [f"template holds {{}} once, for the name of the class; {mistake}"] if mistake else []
    )
    if mistake:
        with pytest.raises(UsageError, match="a template contains {} once, for the name; " + re.escape(mistake)):
            class_embeddings(lambda texts: np.ones((len(texts), 2)), ["cat"], [template])
    else:
        class_embeddings(lambda texts: np.ones((len(texts), 2)), ["cat"], [template])
