"""Check samples: their statistics, and their files."""

import json

import numpy as np
import pytest

from jaxrep.errors import UsageError
from jaxrep.metrics import sample
from jaxrep.metrics.sample import Sample


def test_sample_equals_statistic_of_values():
    assert Sample(np.array([1, 0, 0, 1])) == 0.5
    assert Sample(np.array([1, 5, 9]), "median") == 5
    assert Sample(np.array([1, 1, 1, 0]), "mean_of_means", groups=np.array([3, 3, 3, 0])) == 0.5  # classes weigh alike
    assert json.dumps({"r1": Sample(np.array([1, 0]))}) == '{"r1": 0.5}'


def test_saved_samples_are_read(tmp_path):
    random = np.random.default_rng(0)
    groups = random.integers(3, size=20)
    metrics = {
        "a/mean": Sample(random.random(20)),
        "a/median": Sample(random.random(20), "median"),
        "a/class": Sample(random.random(20), "mean_of_means", groups=groups),
        "plain": 0.25,
    }
    sample.save(tmp_path / "samples.npz", metrics)
    found = sample.read(tmp_path / "samples.npz")
    assert found == {name: value for name, value in metrics.items() if name != "plain"}
    np.testing.assert_array_equal(found["a/class"].groups, groups)
    assert found["a/median"].statistic == "median"


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "samples.npz").write_bytes(b"no zip")
    with pytest.raises(UsageError, match=r"samples.npz is damaged"):
        sample.read(tmp_path / "samples.npz")
