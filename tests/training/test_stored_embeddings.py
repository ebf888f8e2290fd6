"""A text tower that trains on stored embeddings becomes what it becomes beside the locked tower that made them."""

import numpy as np
import pytest

import jaxrep
from jaxrep.data.transforms.fields import SelectFields
from jaxrep.data.transforms.stored import WithEmbeddings
from jaxrep.embeddings.embed_source import embed_source
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.optim.rules import Freeze
from jaxrep.recipe import From
from jaxrep.training.loop import train
from tests.helpers.harness import LOADED, RECIPE, tiny
from tests.helpers.trained_model import finished

METHOD = DualEncoder(towers={"image": tiny.Patches(), "text": tiny.Ids()}, dim=4)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A run whose image tower is locked."""
    return finished(tmp_path_factory.mktemp("origin") / "run", METHOD)


def trained(recipe, folder):
    """The values of the trained tower and the scale, after three steps by microbatches on eight devices."""
    recipe = recipe.replace({"data.batch_size": 16, "log.embedding_metrics": False}, examples=48, microbatch_size=8)
    assert train(recipe, folder, LOADED) == 0
    arrays = jaxrep.load(folder)._arrays
    return {path: np.asarray(x) for path, x in arrays.items() if not path.startswith("image")}


@pytest.fixture(scope="module")
def source(origin, tmp_path_factory):
    out = f"npz:{tmp_path_factory.mktemp('stored')}/many"
    embed_source(jaxrep.load(origin), RECIPE.data.train, out, fields=("image",))
    texts = SelectFields(source=RECIPE.data.train, names={"text": "text", "text_id": "text_id"})
    return WithEmbeddings(source=texts, folder=out.removeprefix("npz:"), names={"image_stored": "image"}, width=4)


@pytest.mark.slow  # tests/step/test_given.py holds it for single steps
def test_training_on_stored_embeddings_equals_training_beside_the_locked_tower(origin, source, tmp_path):
    locked = RECIPE.replace(
        {"optimizer.rules": (Freeze(path="image/**"), Freeze(path="image_head/**"))},
        init={"image": From(str(origin)), "image_head": From(str(origin))},
    )
    expected = trained(locked, tmp_path / "locked")
    alone = RECIPE.replace(
        {"data.train": source},
        method=DualEncoder(towers={"text": tiny.Ids()}, dim=4),
        objective={"contrastive": Contrastive("image_stored", "text")},
    )
    found = trained(alone, tmp_path / "alone")
    assert found.keys() == expected.keys() == {"text/embedding", "text_head/kernel", "scale/log"}
    for path, values in expected.items():  # three steps of Adam, whose first divides a gradient by its own size
        np.testing.assert_allclose(found[path], values, rtol=0, atol=1e-4, err_msg=path)
    moved = trained(alone.replace({"seed": 1}), tmp_path / "other")
    assert np.abs(moved["text/embedding"] - expected["text/embedding"]).max() > 0.1
