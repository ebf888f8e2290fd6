"""The term of several scales against the released loss of SatMAE++, in value and gradient, and wrong shapes."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.objectives import MultiScaleReconstruction
from jaxrep.spec import problems

B, SIDE, PATCH, C = 3, 8, 4, 5
GROUPS = ((0, 3), (4, 1), (2,))
RANDOM = np.random.default_rng(0)
TERM = MultiScaleReconstruction(patch=PATCH, groups=GROUPS)
FIELDS: dict[str, Any] = {
    "image": RANDOM.random((B, SIDE, SIDE, C), np.float32),
    "image_2x": RANDOM.random((B, 2 * SIDE, 2 * SIDE, C), np.float32),
    "image_4x": RANDOM.integers(0, 256, (B, 4 * SIDE, 4 * SIDE, C), dtype=np.uint8),
    "image/masked": RANDOM.permuted(np.arange(12 * B).reshape(B, 12) % 12 < 9, axis=1),
    "position": np.stack([np.zeros(B), np.arange(B)], 1).astype(np.uint32),
}
OUTPUTS = {
    name: RANDOM.random(FIELDS[field].shape).astype(np.float32)
    for name, field in (("picture", "image"), ("picture/2", "image_2x"), ("picture/4", "image_4x"))
}


def patches(picture: np.ndarray) -> np.ndarray:
    """The released patchify, as [N, C, L, p * p]."""
    n, side = len(picture), SIDE // PATCH
    x = np.moveaxis(picture, -1, 1).reshape(n, C, side, PATCH, side, PATCH)
    return np.einsum("nchpwq->nchwpq", x).reshape(n, C, side * side, PATCH**2)


def released(outputs: dict[str, np.ndarray], groups=GROUPS) -> float:
    """The loss of techmn/satmae_pp: forward_loss, forward and engine_pretrain.py's sum, in float64."""
    outputs = {name: x.astype(np.float64) for name, x in outputs.items()}
    fields = {name: x / 255 if x.dtype == np.uint8 else x.astype(np.float64) for name, x in FIELDS.items()}
    loss = ((patches(outputs["picture"]) - patches(fields["image"])) ** 2).mean(axis=-1)
    mask = FIELDS["image/masked"].reshape(B, len(groups), -1)
    total, removed = 0.0, 0
    for i, group in enumerate(groups):
        total += (loss[:, list(group)].mean(axis=1) * mask[:, i]).sum()
        removed += mask[:, i].sum()
    l1 = [np.abs(outputs[f"picture/{scale}"] - fields[f"image_{scale}x"]).mean() for scale in (2, 4)]
    return 0.6 * total / removed + 0.4 * (0.5 * l1[0] + 0.5 * l1[1])


def loss(outputs: Any, term: MultiScaleReconstruction = TERM, **fields: Any) -> Any:
    return term(outputs, {**FIELDS, **fields}, StepContext())[0]


def test_loss_and_gradient_are_those_of_the_released_code():
    value, gradient = jax.jit(jax.value_and_grad(loss))(OUTPUTS)
    np.testing.assert_allclose(value, released(OUTPUTS), rtol=1e-5)
    for name, x in OUTPUTS.items():
        direction, step = RANDOM.normal(size=x.shape), 1e-6
        moved = [released({**OUTPUTS, name: x + sign * step * direction}) for sign in (1, -1)]
        expected = (moved[0] - moved[1]) / (2 * step)
        np.testing.assert_allclose((np.asarray(gradient[name]) * direction).sum(), expected, rtol=1e-3, err_msg=name)


def test_hidden_tokens_alone_have_a_gradient_at_the_smallest_scale():
    gradient = jax.grad(loss)(OUTPUTS)["picture"]
    by_token = np.stack([np.abs(patches(gradient)[:, list(group)]).sum(axis=(1, 3)) for group in GROUPS], axis=1)
    np.testing.assert_array_equal(by_token.reshape(B, -1) > 0, FIELDS["image/masked"])


def test_rows_are_a_mean_and_one_group_is_that_of_all_channels():
    term, masked = replace(TERM, groups=()), FIELDS["image/masked"][:, :4] | np.eye(4, dtype=bool)[:B]
    whole = loss(OUTPUTS, term, **{"image/masked": masked})
    one = replace(TERM, groups=(tuple(range(C)),))
    np.testing.assert_array_equal(whole, loss(OUTPUTS, one, **{"image/masked": masked}))
    rows = [
        term(
            {name: x[row : row + 1] for name, x in OUTPUTS.items()},
            {name: x[row : row + 1] for name, x in {**FIELDS, "image/masked": masked}.items()},
            StepContext(),
        )[0]
        for row in range(B)
    ]
    np.testing.assert_allclose(whole, np.mean(rows), rtol=1e-6)


@pytest.mark.parametrize(
    ("term", "fields", "sentence"),
    [
        (
            TERM,
            {"image": FIELDS["image"][..., :3]},
            r"'picture' predicts pictures of shape \(8, 8, 5\), and 'image' has \(8, 8, 3\)",
        ),
        (
            TERM,
            {"image_4x": FIELDS["image_2x"]},
            r"'picture/4' predicts pictures of shape \(32, 32, 5\), and 'image_4x' has \(16, 16, 5\): resize the field",
        ),
        (replace(TERM, groups=((0, 3), (2,))), {}, "'image' has 5 channels, and groups are .* name each channel once"),
        (replace(TERM, groups=((0, 1), (1, 2, 3, 4))), {}, "name each channel once"),
        (replace(TERM, patch=2), {}, "has 48 tokens of 3 groups, and its mask 12: give the mask, the encoder"),
        (replace(TERM, patch=3), {}, "'image', 8 x 8, does not split into patches of 3 x 3"),
    ],
)
def test_what_does_not_fit_is_one_sentence(term, fields, sentence):
    with pytest.raises(ValueError, match=f"^MultiScaleReconstruction: .*{sentence}"):
        jax.eval_shape(lambda outputs: loss(outputs, term, **fields), OUTPUTS)


def test_missing_larger_pictures_are_told():
    assert problems(replace(TERM, larger=())) == ["larger names no field: take Reconstruction for pictures of one size"]
    assert TERM.advice("image_2x") == "the views CopyField and Resize make it"
