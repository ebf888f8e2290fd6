"""Retrieval per layer and width, with features that are known."""

from typing import Any

import numpy as np
import pytest

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.errors import JaxrepError
from jaxrep.evals.retrieval.layer_map import LayerMap
from jaxrep.spec import problems
from tests.helpers.fake_model import given

COUNT = 6


def pairs():
    """Numbers in two languages. The last two have the same name in the second one."""
    second = [*range(COUNT - 1), COUNT - 2]
    ids = np.array([[i, 10 + second[i]] for i in range(COUNT)], np.int32)
    return given(text=[(f"{i} a", f"{second[i]} b") for i in range(COUNT)], text_id=ids)


class Fake:
    """Layer 1 encodes the parity of a number in its first feature, layer 2 the number from its second feature on."""

    def tokenize(self, texts):
        return {"text": np.array([[int(text[0])] for text in texts]), "text/valid": np.ones((len(texts), 1), bool)}

    def outputs(self, batch, want):
        assert want == ("text/layers",)
        number = batch["text"][:, 0]
        first = np.stack([1.0 - 2 * (number % 2), 0 * number, 0 * number], 1)
        angle = number / 2
        second = np.stack([np.full(len(number), 1e-3), np.cos(angle), np.sin(angle)], 1)
        return {"text/layers": np.stack([first, second], 1).astype(np.float32)}


def test_each_layer_at_each_width():
    model: Any = Fake()
    found = LayerMap(data=pairs(), dims=(1, 3)).run(model)
    assert list(found) == ["layers/1/1/r1", "layers/1/3/r1", "layers/2/1/r1", "layers/2/3/r1"]
    # Numbers of equal parity have equal features, and a tie counts against the model.
    assert found["layers/1/3/r1"] == found["layers/2/1/r1"] == 0
    assert found["layers/2/3/r1"] == 1  # the last two numbers share a correct name
    assert found["layers/1/1/r1"] == 0


def test_too_wide_dims_and_single_texts_are_one_sentence():
    model: Any = Fake()
    with pytest.raises(JaxrepError, match="features have width 3, and dims asks for 4"):
        LayerMap(data=pairs(), dims=(4,)).run(model)
    (sentence,) = problems(LayerMap(data=OpenMoji(), dims=(1,)))
    assert sentence == "the column 'text' of data has not two texts per example"
