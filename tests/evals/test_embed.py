"""An evaluation goes without what cannot be read, and measures the rest as if there were nothing else."""

import numpy as np
import pytest

from jaxrep.data.source import Columns
from jaxrep.errors import BadSample, JaxrepError, UsageError
from jaxrep.evals.embed import logit_scale
from jaxrep.evals.embedding_space import EmbeddingSpace
from jaxrep.evals.retrieval.retrieval import Retrieval
from tests.helpers.fake_model import TABLES, FakeModel, given, pictures, unit

N = 40


class Damaged(Columns):
    """Columns of which example 7 cannot be read."""

    def gather(self, indices, keys=None, substitute=None):
        if 7 in indices:
            raise BadSample("a.tar, member 7.jpg", "the image is empty")
        return super().gather(indices, keys, substitute)


def world(rows, table=Columns):
    random = np.random.default_rng(0)
    images, texts = unit(random.normal(size=(N, 8))), unit(random.normal(size=(N, 8)))
    model = FakeModel(images, {f"text {number}": text for number, text in enumerate(texts)})
    columns = {"image": pictures(range(N))[rows], "text": [f"text {number}" for number in rows]}
    data = given(**columns)
    TABLES[data.key] = table(columns)
    return data, model


@pytest.mark.parametrize("make", [Retrieval, EmbeddingSpace])
def test_unreadable_example_is_skipped_and_reported(make, capsys):
    data, model = world(np.arange(N), Damaged)
    whole, _ = world(np.delete(np.arange(N), 7))
    found, expected = (make(data=each).run(model) for each in (data, whole))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}
    )
    assert (
        "1 examples cannot be read (the first: a.tar, member 7.jpg: the image is empty) of 40"
        in capsys.readouterr().err
    )


def test_no_readable_example_is_an_error():
    data, model = world(np.arange(N))
    TABLES[data.key] = Nothing({"image": pictures([0]), "text": ["text 0"]})
    with pytest.raises(JaxrepError, match=r"1 examples cannot be read .* of 1: repair"):
        Retrieval(data=data).run(model)  # pyright: ignore[reportArgumentType]


class Nothing(Columns):
    def gather(self, indices, keys=None, substitute=None):
        raise BadSample("a.tar, member 0.jpg", "the image is empty")


def test_logit_scale_is_learned_or_given():
    assert logit_scale(FakeModel([], {}, scale=np.float32(50))) == 50
    assert logit_scale(FakeModel([], {}), temperature=0.5) == 2
    with pytest.raises(UsageError, match="has not learned a logit scale, so give a temperature"):
        logit_scale(FakeModel([], {}))
