"""Boxes and names of regions, for a model with given queries and boxes."""

import numpy as np
import pytest

from jaxrep.errors import JaxrepError
from jaxrep.evals.dense.grounding import Grounding
from tests.helpers.fake_model import FakeModel, given, pictures, unit

TEXTS = {"cat": unit([1, 0, 0]), "dog": unit([0, 1, 0]), "cow": unit([0, 0, 1])}
# In the first image the second query covers the first region, and the first query half of the second region. In the
# other image one query covers no region.
BOXES = np.array(
    [[[0.6, 0.5, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]], [[0.9, 0.9, 0.1, 0.1], [0.4, 0.4, 0.4, 0.4]]], np.float32
)
TRUE = np.array([[[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]], [[0.4, 0.4, 0.4, 0.3], [0, 0, 0, 0]]], np.float32)
QUERIES = np.array([[[0, 1, 2], [3, 1, 0]], [[9, 9, 9], [0, 2, 1]]], np.float32)
PRESENT = np.array([[True, True], [True, False]])


class Finder(FakeModel):
    def encode_block(self, own, rows, want, *, normalize):
        at = own["image"][:, 0, 0, 0].astype(int)
        return {name: {"query": QUERIES, "query/boxes": BOXES}[name][at] for name in want}


def scenes(present=PRESENT):
    names = [("cat", "dog"), ("cow", "")]
    return given(**{"image": pictures([0, 1]), "region": names, "region/present": present, "boxes": TRUE})


def test_regions_are_measured_by_the_matched_query():
    found = Grounding(data=scenes(), ks=(1, 2)).run(Finder(None, TEXTS))  # pyright: ignore[reportArgumentType]
    expected = {
        "iou": np.mean([1, 1 / 3, 3 / 4]),  # half of each box is outside the other box
        "iou50": 2 / 3,
        "r1": 1 / 3,  # cat; the others are second
        "r2": 1,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"grounding/{name}"], value, rtol=1e-5, err_msg=name)  # float32
    assert len(found) == 4


def test_zero_query_ties_with_all_names():
    class Blind(Finder):
        def encode_block(self, own, rows, want, *, normalize):
            found = super().encode_block(own, rows, want, normalize=normalize)
            return {name: x * (name != "query") for name, x in found.items()}

    found = Grounding(data=scenes(), ks=(2, 3)).run(Blind(None, TEXTS))  # pyright: ignore[reportArgumentType]
    assert (found["grounding/r2"], found["grounding/r3"]) == (0, 1)  # all three names are as near


def test_data_without_regions_is_an_error():
    with pytest.raises(JaxrepError, match="no example has a region"):
        Grounding(data=scenes(np.zeros((2, 2), bool))).run(Finder(None, TEXTS))  # pyright: ignore[reportArgumentType]
