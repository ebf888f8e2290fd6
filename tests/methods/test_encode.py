"""The outputs of a field, and the running statistics that are kept."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxrep.batch import INFERENCE
from jaxrep.encoders.base import EncoderOutput
from jaxrep.methods.base import BATCH_STATS
from jaxrep.methods.encode import encode_and_project, merge_outputs

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
