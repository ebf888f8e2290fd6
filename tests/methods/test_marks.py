"""Fields beside an encoder's input: how a method hands them over, and what it says of one that does not fit."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE, Field
from jaxrep.encoders import EncoderInputs, EncoderOutput, MarkTable, TextTransformer
from jaxrep.methods.encode import encode_field, input_field

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
