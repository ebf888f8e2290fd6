"""The outputs of a field, the running statistics that are kept, and the fields beside an encoder's input."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE, Field
from jaxrep.encoders import EncoderInputs, EncoderOutput, MarkTable, TextTransformer
from jaxrep.methods.base import BATCH_STATS
from jaxrep.methods.encode import encode_and_project, encode_field, input_field, merge_outputs

ROWS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def tower(inputs):
    return EncoderOutput(pooled=inputs.x, batch_stats={"sum": inputs.x.sum()})


ENCODER: Any = SimpleNamespace(rank=2, marks={})
MODULE = SimpleNamespace(image=tower, image_head=lambda x: 2 * x, text=tower, text_head=lambda x: -x)
BATCH = {"image": ROWS, "again": 10 * ROWS, "text": ROWS[:, 0]}


def test_second_axis_is_projected_and_kept():
    out = encode_and_project(MODULE, "image", ENCODER, BATCH, INFERENCE)
    np.testing.assert_array_equal(out["image/pooled"], ROWS)
    np.testing.assert_array_equal(out["image"], 2 * ROWS)
    assert out.keys() == {"image", "image/pooled", BATCH_STATS}  # this tower has no tokens


def test_batch_stats_are_those_of_the_towers_own_field():
    fields = (("image", "image"), ("text", "text"), ("again", "image"))
    out = merge_outputs(*(encode_and_project(MODULE, name, ENCODER, BATCH, INFERENCE, tower=of) for name, of in fields))
    assert out[BATCH_STATS] == {"image": {"sum": ROWS.sum()}, "text": {"sum": ROWS[:, 0].sum()}}
    np.testing.assert_array_equal(out["again"], 20 * ROWS)
    assert merge_outputs({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}


# Marks ----------------------------------------------------------------------------------------------------------------

IDS = np.ones((2, 3, 4), np.int32)
SPEC = TextTransformer(width=8, depth=1, heads=2, mark_tables=(MarkTable(mark="speaker", classes=5),))
FIELDS = {"text": Field((3, 4), "int32", 9), "text/speaker": Field((3, 4), "int32", 5)}


def encode(inputs: EncoderInputs) -> EncoderOutput:
    return EncoderOutput(pooled=inputs.marks["speaker"], tokens=inputs.x)


def marks_of(**batch):
    module = SimpleNamespace(text=encode)
    batch = {"text": jnp.asarray(IDS), **{f"text/{name}": jnp.asarray(x) for name, x in batch.items()}}
    encoded, views = encode_field(module, "text", SPEC, batch, INFERENCE)
    return encoded.pooled, views


def test_marks_have_the_views_of_their_field():
    speaker = np.arange(24).reshape(2, 3, 4)
    found, views = marks_of(speaker=speaker)
    assert views == 3
    np.testing.assert_array_equal(found, speaker.reshape(6, 4))
    with pytest.raises(ValueError, match="text: 'text/speaker' has 1 views, and 'text' has 3: they have to be as many"):
        marks_of(speaker=speaker[:, 0])


def test_a_mark_that_the_batch_lacks_is_named():
    with pytest.raises(ValueError, match="text: the encoder reads the field 'text/speaker', which the batch lacks"):
        marks_of(speakers=IDS)


def test_a_mark_of_more_values_than_the_table_has_rows_is_refused():
    assert input_field(FIELDS, "text", SPEC).shape == (4,)
    wide = {**FIELDS, "text/speaker": dataclasses.replace(FIELDS["text/speaker"], classes=6)}
    with pytest.raises(ValueError, match=r"holds integers below 6, .* this mark has 5 rows: set classes = 6"):
        input_field(wide, "text", SPEC)
