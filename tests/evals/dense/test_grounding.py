"""Regions that are found and named, of a model whose queries and boxes are given."""

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.source import Columns
from jaxrep.errors import JaxrepError
from jaxrep.evals.dense.grounding import Grounding
from jaxrep.spec import problems, spec
from tests.helpers.fake_model import TABLES, FakeModel, Given, pictures, unit

TEXTS = {"cat": unit([1, 0, 0]), "dog": unit([0, 1, 0]), "cow": unit([0, 0, 1])}
# Of the first picture the second query lies on the first region, and the first query half beside the second one; of the
# other picture one query is where nothing is.
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


@spec
class Scenes(Given):
    def fields(self):
        return {name: Field((), "int32") for name in self.names}


def scenes(present=PRESENT):
    names = [("cat", "dog"), ("cow", "")]
    columns = {"image": pictures([0, 1]), "region": names, "region/present": present, "boxes": TRUE}
    TABLES["scenes"] = Columns(columns)
    return Scenes(names=tuple(columns), key="scenes")


def test_each_region_is_measured_by_the_query_whose_box_is_matched_with_it():
    found = Grounding(data=scenes(), ks=(1, 2)).run(Finder(None, TEXTS))  # pyright: ignore[reportArgumentType]
    expected = {
        "iou": np.mean([1, 1 / 3, 3 / 4]),  # of the second, half of either box lies beside the other
        "iou50": 2 / 3,
        "r1": 1 / 3,  # cat; the others are second
        "r2": 1,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"grounding/{name}"], value, rtol=1e-5, err_msg=name)  # float32
    assert len(found) == 4


def test_a_query_without_a_direction_finds_nothing():
    class Blind(Finder):
        def encode_block(self, own, rows, want, *, normalize):
            found = super().encode_block(own, rows, want, normalize=normalize)
            return {name: x * (name != "query") for name, x in found.items()}

    found = Grounding(data=scenes(), ks=(2, 3)).run(Blind(None, TEXTS))  # pyright: ignore[reportArgumentType]
    assert (found["grounding/r2"], found["grounding/r3"]) == (0, 1)  # all three names are as near


def test_data_without_regions_are_refused():
    with pytest.raises(JaxrepError, match="no example has a region"):
        Grounding(data=scenes(np.zeros((2, 2), bool))).run(Finder(None, TEXTS))  # pyright: ignore[reportArgumentType]
    (told,) = problems(Grounding(data=Scenes(names=("image", "region", "region/present"), key="scenes")))
    assert "'boxes'" in told
