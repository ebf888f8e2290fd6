"""Rules by path: what learns, how fast, and what decays."""

import numpy as np
import pytest

from jaxrep.optim.rules import Freeze, LayerDecay, LearningRate, WeightDecay, factors
from jaxrep.paths import PathError
from jaxrep.spec import problems

PARAMS = {
    "image/prefix": np.zeros((1, 8)),
    "image/patch/kernel": np.zeros((4, 4, 3, 8)),
    "image/patch/bias": np.zeros(8),
    "image/blocks/attention/query/kernel": np.zeros((3, 8, 2, 4)),
    "image/blocks/attention/query/bias": np.zeros((3, 2, 4)),
    "image/blocks/norm1/scale": np.zeros((3, 8)),
    "image/blocks/gate": np.zeros(3),
    "image/norm/scale": np.zeros(8),
    "image_head/kernel": np.zeros((8, 4)),
    "scale/log": np.zeros(()),
}


def _of(rules, path, name="rate"):
    return getattr(factors(rules, PARAMS)[path], name).tolist()


def test_biases_gains_and_the_logit_scale_do_not_decay_by_default_and_all_else_does():
    decays = {path: own.decay.tolist() for path, own in factors((), PARAMS).items()}
    assert decays == {
        "image/prefix": 1,
        "image/patch/kernel": 1,
        "image/patch/bias": 0,
        "image/blocks/attention/query/kernel": [1, 1, 1],
        "image/blocks/attention/query/bias": [0, 0, 0],
        "image/blocks/norm1/scale": [0, 0, 0],
        "image/blocks/gate": [0, 0, 0],
        "image/norm/scale": 0,
        "image_head/kernel": 1,
        "scale/log": 0,
    }


def test_a_later_rule_wins():
    rules = (
        Freeze(path="**"),
        LearningRate(path="image/blocks[-1]/**", factor=0.5),
        LearningRate(path="**/bias", factor=2.0),
    )
    assert _of(rules, "image/blocks/norm1/scale") == [0, 0, 0.5]
    assert _of(rules, "image/blocks/attention/query/bias") == [2, 2, 2]
    assert _of(rules, "scale/log") == 0


def test_decay_can_be_set_by_layer_and_for_what_is_spared():
    rules = (WeightDecay(path="image/blocks[1:]/**", factor=0.25), WeightDecay(path="scale/log", factor=1.0))
    assert _of(rules, "image/blocks/norm1/scale", "decay") == [0, 0.25, 0.25]
    assert _of(rules, "image/blocks/attention/query/kernel", "decay") == [1, 0.25, 0.25]
    assert _of(rules, "scale/log", "decay") == 1
    assert _of(rules, "scale/log") == 1


def test_layer_decay_gives_the_rates_of_beit():
    # BEiT numbers the embedding 0, block i i + 1, what follows depth + 1; the rate is factor ** (depth + 1 - number).
    rules = (LearningRate(path="image/**", factor=0.1), LayerDecay(path="image", factor=0.5))
    table = {path: own.rate for path, own in factors(rules, PARAMS).items()}
    for path in ("image/prefix", "image/patch/kernel", "image/patch/bias"):
        np.testing.assert_allclose(table[path], 0.1 * 0.5**4, rtol=1e-6)
    np.testing.assert_allclose(table["image/blocks/norm1/scale"], [0.0125, 0.025, 0.05], rtol=1e-6)
    np.testing.assert_allclose(table["image/norm/scale"], 0.1, rtol=1e-6)
    assert table["image_head/kernel"] == 1


def test_rule_that_selects_nothing_or_is_malformed_is_named():
    with pytest.raises(PathError, match=r"pattern 'imag/\*\*' names no parameter; the nearest are image/\*\*, "):
        factors((Freeze(path="imag/**"),), PARAMS)
    with pytest.raises(
        PathError, match=r"needs the one stack 'image_head/blocks' below 'image_head', which has no stack"
    ):
        factors((LayerDecay(path="image_head"),), PARAMS)
    with pytest.raises(PathError, match=r"'a/blocks/x' has shape \(3, 2\) and 'a/blocks/y' has shape \(2, 2\)"):
        factors((), {"a/blocks/x": np.zeros((3, 2)), "a/blocks/y": np.zeros((2, 2))})
    assert problems(LearningRate(path="a//b", factor=1.0)) == [
        "pattern 'a//b' has an empty segment: write names joined by single slashes"
    ]
    assert problems(LearningRate(path="a", factor=-1.0)) == ["factor: expected a number of at least 0, got -1.0"]
    assert any("acts on one encoder" in problem for problem in LayerDecay(path="*/x").problems())
