"""Linear segmentation against loops over pixels, scikit-learn, and synthetic data with a known answer."""

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn import linear_model

from jaxrep.batch import Field
from jaxrep.errors import JaxrepError
from jaxrep.evals.dense import segmentation
from jaxrep.evals.dense.segmentation import Segmentation, class_fractions, overlaps
from jaxrep.metrics.logistic_regression import LogisticRegression
from jaxrep.model import Model
from jaxrep.spec import problems
from tests.helpers.fake_model import given

K, PATCH = 3, 4
GRID = (2, 3)
SIZE = (GRID[0] * PATCH, GRID[1] * PATCH)


class Towers(Model):
    """A model whose tokens are a function of the mean pixel of each patch."""

    def __init__(self, encode=lambda patches: patches):
        super().__init__(None, {}, {"image": Field((8, 8, 3), "uint8")})  # pyright: ignore[reportArgumentType]
        self.tokens = encode

    def towers(self):
        return ["image"]

    def encode_block(self, host_arrays, rows, want, *, normalize):
        return self.outputs(host_arrays, want)

    def outputs(self, batch, want):
        rows = batch["image"] * (1 if batch["image"].dtype == np.uint8 else np.float32(255))
        patches = rows.reshape(len(rows), GRID[0], PATCH, GRID[1], PATCH, 3).mean(axis=(2, 4)).reshape(len(rows), -1, 3)
        return {want[0]: self.tokens(patches.astype(np.float32) / 255)}


def maps(images, masks, classes: int | None = K, names=None):
    return given({"mask": names} if names else None, classes=classes, image=images, mask=masks)


def made(n, seed, noise=40.0):
    """Return noisy images in which the channel of a pixel is its class. Classes change within patches."""
    random = np.random.default_rng(seed)
    masks = random.integers(K, size=(n, 4, 6)).repeat(2, axis=1).repeat(2, axis=2).astype(np.int32)
    images = 90.0 * np.eye(3)[masks] + 80 + noise * random.normal(size=(*masks.shape, 3))
    return images.clip(0, 255).astype(np.uint8), masks


def run(task: Segmentation, model: Any) -> dict[str, Any]:
    return task.run(model)


# The fit --------------------------------------------------------------------------------------------------------------


def by_pixels(features, masks, l2):
    """scikit-learn's minimum of cross-entropy where every pixel is an example with the features of its patch, and
    weighs what it is of a patch."""
    owner = np.arange(len(features) // 6 * 6).reshape(-1, *GRID).repeat(PATCH, axis=1).repeat(PATCH, axis=2)
    model = linear_model.LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000)
    rows = features.astype(float)[owner.ravel()]
    return model.fit(rows, masks.ravel(), sample_weight=np.full(masks.size, PATCH**-2.0))


def test_fit_to_class_fractions_equals_fit_to_every_pixel():
    _, masks = made(20, seed=0)
    features = np.random.default_rng(1).normal(size=(20 * 6, 4)).astype(np.float32)
    targets = class_fractions(masks, GRID, K).reshape(-1, K)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    for l2 in (1.0, 0.01):
        found, expected = LogisticRegression(features, targets, K).fit(l2), by_pixels(features, masks, l2)
        # Gradients end at 1e-5, and a flat minimum is that much wider.
        np.testing.assert_allclose(found.weights - found.weights.mean(0), expected.coef_, atol=2e-3)
        np.testing.assert_allclose(found.bias - found.bias.mean(), expected.intercept_, atol=2e-3)


def test_one_hot_rows_equal_labels_and_zero_rows_are_ignored():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(90, 4)).astype(np.float32), random.integers(K, size=90)
    features[:60] += np.eye(4, dtype=np.float32)[labels[:60]]
    # The scale is that of all rows, and nothing else of those without weight.
    weighted = np.eye(K)[labels] * (np.arange(90) < 60)[:, None]
    one, other = (
        LogisticRegression(features, weighted, K).fit(0.5),
        LogisticRegression(features[:60], labels[:60], K).fit(0.5),
    )
    np.testing.assert_allclose(one.weights, other.weights, atol=2e-3)


def test_class_fractions_per_patch():
    _, masks = made(2, seed=3)
    masks[0, :4, :4] = K  # ignored
    found = class_fractions(masks, GRID, K).reshape(2, *GRID, K)
    for n, r, c, k in itertools.product(range(2), range(GRID[0]), range(GRID[1]), range(K)):
        patch = masks[n, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH]
        assert found[n, r, c, k] == pytest.approx(np.mean(patch == k))
    assert not found[0, 0, 0].any()


# What is measured -----------------------------------------------------------------------------------------------------


def upsampled(logits, height, width):
    """Bilinear, between the middles of patches, and the nearest patch's beyond them: [r,c,K] -> [H,W,K]."""

    def along(x, size):
        middles = (np.arange(len(x)) + 0.5) * size / len(x) - 0.5
        return np.stack([np.interp(np.arange(size), middles, column) for column in x.reshape(len(x), -1).T], axis=1)

    down = along(logits, height).reshape(height, *logits.shape[1:])
    return along(down.swapaxes(0, 1), width).reshape(width, height, -1).swapaxes(0, 1)


def test_overlaps_count_pixels_of_upsampled_logits():
    random = np.random.default_rng(0)
    patches, weights = random.normal(size=(3, *GRID, 5)).astype(np.float32), random.normal(size=(K, 5))
    bias, truth = random.normal(size=K), random.integers(K + 1, size=(3, *SIZE))
    found = np.asarray(overlaps(patches, truth, weights.astype(np.float32), bias.astype(np.float32)))
    for n in range(3):
        predicted = upsampled(patches[n] @ weights.T + bias, *SIZE).argmax(axis=-1)
        known = truth[n] < K
        for k in range(K):
            expected = [
                np.sum((predicted == k) & (truth[n] == k)),
                np.sum((predicted == k) & known),
                (truth[n] == k).sum(),
            ]
            np.testing.assert_array_equal(found[n, :, k], expected)


def by_loops(predicted, truth, classes):
    """The metrics from predicted and true classes [N,H,W], class by class and picture by picture."""
    known = truth < K
    iou = [np.sum((predicted == k) & (truth == k)) / np.sum(((predicted == k) & known) | (truth == k)) for k in classes]
    dice = [
        np.mean(
            [
                2 * np.sum((p == k) & (t == k)) / (np.sum((p == k) & (t < K)) + np.sum(t == k))
                for p, t in zip(predicted, truth, strict=True)
                if (t == k).any()
            ]
        )
        for k in classes
    ]
    right = [np.mean(p[t < K] == t[t < K]) for p, t in zip(predicted, truth, strict=True) if (t < K).any()]
    return {"mean_iou": np.mean(iou), "dice": np.mean(dice), "accuracy": np.mean(right)}


@pytest.mark.parametrize("background", [True, False])
def test_metrics_equal_loops_over_pixels(monkeypatch, background):
    monkeypatch.setattr(segmentation, "BLOCK_SIZE", 4)  # several blocks, the last one smaller
    train, (images, masks) = maps(*made(30, seed=0)), made(10, seed=1)
    masks[3, :5], masks[7], masks[2] = 255, 255, 0
    task = Segmentation(train=train, data=maps(images, masks), background=background)
    found = run(task, Towers())
    features, targets = made(30, seed=0)
    model = Towers()
    tokens = [model.outputs({"image": x}, ("t",))["t"].reshape(-1, 3) for x in (features, images)]
    mean, deviation = tokens[0].mean(0), np.sqrt(tokens[0].var(0) + 1e-5)
    oracle = by_pixels((tokens[0] - mean) / deviation, targets, 1.0)
    logits = oracle.decision_function((tokens[1] - mean) / deviation).reshape(10, *GRID, K)
    predicted = np.stack([upsampled(each, *SIZE).argmax(-1) for each in logits])
    expected = by_loops(predicted, np.where(masks == 255, K, masks), range(0 if background else 1, K))
    assert {f"segmentation/{name}" for name in expected} == found.keys()
    for name, value in expected.items():
        # Two minima that agree to 2e-3 may differ at some of 960 pixels.
        assert found[f"segmentation/{name}"] == pytest.approx(value, abs=5e-3), name
    assert 0.3 < found["segmentation/mean_iou"] < 0.95
    assert len(found["segmentation/accuracy"].values) == 9  # the picture without a class is left out


def test_perfect_tokens_have_perfect_metrics():
    """Classes that fill patches, each far from the others, with logits that change half way."""
    masks = np.zeros((12, *SIZE), np.int32)
    masks[:, :, PATCH:] = np.arange(12)[:, None, None] % 2 + 1
    masks[:, :, 2 * PATCH :] = 0
    images = (255 * np.eye(3)[masks]).astype(np.uint8)
    data = maps(images, masks)
    found = run(Segmentation(train=data, data=data), Towers())
    assert found == {f"segmentation/{name}": 1.0 for name in ("mean_iou", "dice", "accuracy")}
    blind = run(Segmentation(train=data, data=data), Towers(np.zeros_like))
    assert blind["segmentation/mean_iou"] == pytest.approx(2 / 3 / 3)  # all is background


def test_pixels_of_patches_as_features():
    images, masks = made(40, seed=5)
    train, data = maps(images, masks), maps(*made(10, seed=6))
    blind = Towers(lambda patches: 0 * patches)
    task = Segmentation(train=train, data=data, output="pixels", name="pixels")
    assert task.reads == ("image/tokens",)
    assert (
        run(task, blind)["pixels/accuracy"] > run(Segmentation(train=train, data=data), blind)["segmentation/accuracy"]
    )
    (patches, _), *rest = task._blocks(blind, task.train.open(), "train")
    assert not rest
    np.testing.assert_allclose(patches[3, 1, 2], images[3, 4:8, 8:12].ravel() / 255, rtol=1e-6)


def test_patches_are_drawn_equally_from_all_images(monkeypatch):
    seen = []
    fit = segmentation.fit_standardized
    monkeypatch.setattr(segmentation, "fit_standardized", lambda x, *rest: (seen.append(x), fit(x, *rest))[1])
    images, masks = made(20, seed=0)
    images[:] = (10 * np.arange(20))[:, None, None, None]  # a picture is known by its tokens
    run(Segmentation(train=maps(images, masks), data=maps(images, masks), patches=70), Towers())
    np.testing.assert_array_equal(np.unique(seen[0][:, 0], return_counts=True)[1], [3] * 20)


# What is refused ------------------------------------------------------------------------------------------------------


def test_problems_of_class_maps():
    good = maps(*made(2, seed=0))
    (sentence,) = problems(Segmentation(train=maps(made(2, seed=0)[0], np.zeros((2, 4, 4), int)), data=good))
    assert sentence.startswith("'mask' of train must have the size of the image")
    (sentence,) = problems(Segmentation(train=good, data=maps(*made(2, seed=0), classes=None)))
    assert "data does not declare how many classes" in sentence


def unknown():
    images, masks = made(4, seed=0)
    masks[2, 1, 1] = 7
    return maps(images, masks)


def of_another_size(patches):
    raise ValueError("images of shape (8, 12, 3) reach an encoder that was built for (4, 4, 3)")


@pytest.mark.parametrize(
    ("train", "encode", "sentence"),
    [
        (lambda: maps(*made(4, 0)), of_another_size, "the model cannot read the examples: images of shape"),
        (unknown, lambda x: x, "'mask' of example 2 of train holds 7, and there are 3 classes"),
        (lambda: maps(*made(4, 0)), lambda x: x[:, :5], "5 tokens are no grid of patches of 8 x 12 pixels"),
        (lambda: maps(*made(4, 0)), lambda x: x[:, 0], r"'image/tokens' is an array of shape \[3\] per image"),
        (lambda: maps(*made(4, 0)), lambda x: x * np.nan, "'image/tokens' of an image .* is not finite"),
        (lambda: maps(made(4, 0)[0], np.full((4, *SIZE), 255)), lambda x: x, "no pixel of train has a class"),
        (lambda: maps(*made(4, 0), names=["a", "b", "c"]), lambda x: x, "has different class names in train and data"),
    ],
)
def test_unmeasurable_data_is_one_sentence(train, encode, sentence):
    task = Segmentation(train=train(), data=maps(*made(4, seed=1), names=["a", "c", "b"]))
    with pytest.raises(JaxrepError, match=f"{sentence}"):
        run(task, Towers(encode))


def test_tokens_of_groups_are_features_of_their_place():
    """Two groups of three channels are one group of six; other numbers of tokens are told."""
    data, other = maps(*made(12, 0)), maps(*made(6, seed=1))
    channels = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
    one = run(Segmentation(train=data, data=other), Towers(lambda x: x @ channels))
    split = Towers(lambda x: np.concatenate([x @ channels[:, :3], x @ channels[:, 3:]], axis=1))
    assert run(Segmentation(train=data, data=other, groups=2), split) == pytest.approx(one, abs=1e-6)
    with pytest.raises(JaxrepError, match="12 tokens of 5 groups are no grid of patches of 8 x 12 pixels"):
        run(Segmentation(train=data, data=other, groups=5), split)
