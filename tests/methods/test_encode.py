"""What of a field is emitted, and whose running statistics are kept."""

from types import SimpleNamespace

import numpy as np

from jaxrep.batch import INFERENCE
from jaxrep.encoders.base import EncoderOutput
from jaxrep.methods.encode import encode_and_project, merge_outputs

ROWS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def tower(x, *, valid, masked, intermediates, ctx):
    return EncoderOutput(pooled=x, batch_stats={"sum": x.sum()})


MODULE = SimpleNamespace(image=tower, image_head=lambda x: 2 * x, text=tower, text_head=lambda x: -x)
BATCH = {"image": ROWS, "again": 10 * ROWS, "text": ROWS[:, 0]}


def test_rows_with_a_second_axis_are_projected_and_keep_it():
    out = encode_and_project(MODULE, "image", 2, BATCH, INFERENCE)
    np.testing.assert_array_equal(out["image/pooled"], ROWS)
    np.testing.assert_array_equal(out["image"], 2 * ROWS)
    assert out.keys() == {"image", "image/pooled", "statistics"}  # this tower has no tokens


def test_statistics_are_those_of_each_towers_own_field():
    fields = (("image", "image"), ("text", "text"), ("again", "image"))
    out = merge_outputs(*(encode_and_project(MODULE, name, 2, BATCH, INFERENCE, tower=of) for name, of in fields))
    assert out["statistics"] == {"image": {"sum": ROWS.sum()}, "text": {"sum": ROWS[:, 0].sum()}}
    np.testing.assert_array_equal(out["again"], 20 * ROWS)
    assert merge_outputs({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
