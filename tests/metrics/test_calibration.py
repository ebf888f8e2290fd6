"""Check probabilities and the calibration error against loops and SciPy."""

import numpy as np
import pytest
import scipy.special

from jaxrep.metrics.calibration import confidences, expected_calibration_error, softmax
from tests.helpers.eval_oracles import calibration_by_loops


@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_error_equals_definition(bins):
    random = np.random.default_rng(0)
    confidence = np.append(random.uniform(0, 1, 500), [1 / 15, 1.0, 0.4])
    right = random.uniform(size=503) < confidence**2
    found = expected_calibration_error(confidence, right, bins)
    assert found == pytest.approx(calibration_by_loops(confidence, right, bins), abs=1e-12) and found > 0.05


def test_calibrated_classifier_has_zero_error():
    assert expected_calibration_error(np.full(8, 0.75), np.arange(8) < 6) == pytest.approx(0)
    assert expected_calibration_error(np.ones(4), np.zeros(4, bool)) == 1


def test_confidences_equal_softmax_for_any_block_size():
    random = np.random.default_rng(1)
    queries, classes = random.normal(size=(7, 4)).astype("f4"), random.normal(size=(5, 4)).astype("f4")
    expected = scipy.special.softmax(20.0 * queries @ classes.T, axis=1).max(1)
    for block_size in (2, 100):
        np.testing.assert_allclose(confidences(queries, classes, 20, block_size=block_size), expected, rtol=1e-5)
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4 - 1]])), [[0.731059, 0.268941]], atol=1e-6)
