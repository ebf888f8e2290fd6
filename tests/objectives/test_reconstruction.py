"""The term of reconstruction against the released losses of MAE and SimMIM, in value and gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.encoders import PixelNorm
from jaxrep.objectives import Reconstruction

B, SIDE, PATCH = 3, 8, 4
N, P = 4, PATCH * PATCH * 3
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((B, SIDE, SIDE, 3), np.float32)
MASKED = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0]], bool)  # rows of 3, 1 and 3 hidden patches
INDEX = np.array([[0, 2, 3], [1, -1, -1], [0, 1, 2]], np.int32)
NORM = PixelNorm.imagenet()
CTX = StepContext()


def batch_of(image: Any = IMAGE, **fields: Any) -> dict[str, Any]:
    position = np.stack([np.zeros(len(image)), np.arange(len(image))], 1).astype(np.uint32)
    return {"image": image, "image/masked_index": INDEX, "position": position, **fields}


def at_hidden(x):
    return np.take_along_axis(x, np.maximum(INDEX, 0)[..., None], axis=1)


def loss(term, x, batch):
    return term({"pixels": x}, batch, CTX)[0]


def normalized(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.float64) - NORM.mean) / NORM.std


def mae_loss(image: np.ndarray, predicted: np.ndarray, masked: np.ndarray, *, norm_pix_loss: bool) -> float:
    """``forward_loss`` of facebookresearch/mae (models_mae.py) in float64, on channels-last images."""
    x = image.reshape(B, 2, PATCH, 2, PATCH, 3)
    target = np.einsum("nhpwqc->nhwpqc", x).reshape(B, N, P)
    if norm_pix_loss:
        mean, variance = target.mean(-1, keepdims=True), target.var(-1, ddof=1, keepdims=True)
        target = (target - mean) / (variance + 1e-6) ** 0.5
    return float((((predicted - target) ** 2).mean(-1) * masked).sum() / masked.sum())


def simmim_loss(image: np.ndarray, predicted: np.ndarray, masked: np.ndarray) -> float:
    """``SimMIM.forward`` of microsoft/SimMIM (models/simmim.py) in float64; the prediction is an image."""
    mask = masked.reshape(B, 2, 2).repeat(PATCH, 1).repeat(PATCH, 2)[..., None]
    return float((abs(image - predicted) * mask).sum() / (mask.sum() + 1e-5) / 3)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_squares_are_the_loss_of_mae(norm_pix_loss):
    x = RANDOM.normal(size=(B, N, P)).astype(np.float32)
    term = Reconstruction("pixels", patch=PATCH, pixels=NORM, patch_norm=norm_pix_loss)
    expected = mae_loss(normalized(IMAGE), x.astype(np.float64), MASKED, norm_pix_loss=norm_pix_loss)
    for predicted in (x, at_hidden(x)):  # of all patches, or of hidden ones alone
        np.testing.assert_allclose(loss(term, predicted, batch_of()), expected, rtol=1e-5)  # float32
    gradient = np.asarray(jax.grad(lambda x: loss(term, x, batch_of()))(x))
    step = 1e-4 * RANDOM.normal(size=x.shape)
    values = [mae_loss(normalized(IMAGE), x + sign * step, MASKED, norm_pix_loss=norm_pix_loss) for sign in (1, -1)]
    np.testing.assert_allclose((gradient * step).sum(), (values[0] - values[1]) / 2, rtol=1e-4)
    assert not gradient[~MASKED].any()


def test_absolute_values_are_the_loss_of_simmim():
    image = RANDOM.normal(size=(B, SIDE, SIDE, 3)).astype(np.float32)
    x = np.einsum("nhpwqc->nhwpqc", image.reshape(B, 2, PATCH, 2, PATCH, 3)).reshape(B, N, P)
    term = Reconstruction("pixels", patch=PATCH, pixels=NORM, kind="l1")
    expected = simmim_loss(normalized(IMAGE), image.astype(np.float64), MASKED)
    np.testing.assert_allclose(loss(term, x, batch_of()), expected, rtol=1e-5)  # float32, and 1e-5 in the divisor


def test_all_patches_count_without_a_mask():
    x = RANDOM.normal(size=(B, N, P)).astype(np.float32)
    term = Reconstruction("pixels", patch=PATCH, over="all")
    assert term.needs == ("image",)
    patches = np.einsum("nhpwqc->nhwpqc", IMAGE.reshape(B, 2, PATCH, 2, PATCH, 3)).reshape(B, N, P)
    batch = batch_of()
    del batch["image/masked_index"]
    np.testing.assert_allclose(loss(term, x, batch), ((x - patches) ** 2).mean(), rtol=1e-5)


def test_rows_of_numbers_are_one_patch():
    rows, x = RANDOM.random((2, B, 6), np.float32)
    term = Reconstruction("pixels", "image", patch=(), over="all")
    np.testing.assert_allclose(loss(term, x, batch_of(rows)), ((x - rows) ** 2).mean(), rtol=1e-5)


def test_bytes_count_as_their_share_of_255():
    image = RANDOM.integers(0, 256, IMAGE.shape, np.uint8)
    x = RANDOM.random((B, N, P), np.float32)
    for pixels in (None, NORM):
        term = Reconstruction("pixels", patch=PATCH, pixels=pixels)
        as_float = loss(term, x, batch_of((image / np.float32(255)).astype(np.float32)))
        np.testing.assert_allclose(loss(term, x, batch_of(image)), as_float, rtol=1e-5)


def test_absent_rows_do_not_count():
    x = RANDOM.random((B, N, P), np.float32)
    term, present = Reconstruction("pixels", patch=PATCH), np.array([True, False, True])
    changed = np.asarray(np.where(present[:, None, None, None], IMAGE, np.float32(9)), np.float32)
    given = {"image/present": jnp.asarray(present)}
    np.testing.assert_allclose(loss(term, x, batch_of(**given)), loss(term, x, batch_of(changed, **given)), rtol=1e-6)


@pytest.mark.parametrize(
    ("term", "shape", "sentence"),
    [
        (Reconstruction("pixels", patch=4), (B, N, 16), "predicts 16 numbers a patch, and a patch of 'image' has 48"),
        (Reconstruction("pixels", patch=4), (B, 2, P), "predicts 2 patches of 'image', which has 4: give the mask"),
        (Reconstruction("pixels", patch=4), (B, 2, 2, P), "has shape .3, 2, 2, 48., where patches are .B,M,P."),
        (Reconstruction("pixels", patch=3), (B, N, P), "'image', 8 x 8, does not split into patches of 3 x 3"),
        (Reconstruction("pixels", patch=(2, 2, 2, 2)), (B, N, P), "'image' has 3 axes, and a patch has 4 sides"),
        (Reconstruction("pixels", patch=4, pixels=PixelNorm(mean=(0.5,), std=(0.5,))), (B, N, P), "3 channels and the"),
    ],
)
def test_predictions_of_another_size_are_one_sentence(term, shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        loss(term, np.zeros(shape, np.float32), batch_of())


def test_a_mask_of_other_tokens_is_one_sentence():
    """Groups of bands are several tokens of a place, and their places are not those of patches of all channels."""
    term, grouped = Reconstruction("pixels", patch=PATCH), {"image/masked": np.zeros((B, 3 * N), bool)}
    with pytest.raises(ValueError, match="which has 4 and whose mask has 12 tokens: give the mask"):
        loss(term, np.zeros((B, 3, P), np.float32), batch_of(**grouped))
