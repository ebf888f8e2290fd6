"""Linear segmentation: predict the class of each pixel from patch tokens.

Oquab et al. 2023, DINOv2 (arXiv:2304.07193, section 7.4); Pérez-García et al. 2024, RAD-DINO (arXiv:2401.10815).
"""

import copy
import math
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from jaxrep.data.source import Examples, Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, Model
from jaxrep.evals.embed import PIXELS, output_blocks
from jaxrep.metrics.logistic_regression import LinearClassifier, LogisticRegression
from jaxrep.metrics.ranking import require_finite
from jaxrep.metrics.sample import Sample
from jaxrep.reads import Column
from jaxrep.spec import Count, Natural, Positive, Range, spec

BLOCK_SIZE = 64
"""Images per block and host."""
EPSILON = 1e-5
"""Added to the variance of each feature, as in batch norm."""


@spec
class Segmentation(Eval):
    """Measure a linear map from frozen patch tokens to classes, whose logits are upsampled to pixels.

    Tokens are standardized, where DINOv2's head has a batch norm. The map is fitted by logistic regression to the
    fractions of the classes in each patch. This is cross-entropy over pixels that have the logits of their patch. On
    ``data`` logits are upsampled bilinearly. Images are read at the size that the data have.

    Metrics:
        ``mean_iou``: intersection over union of all pixels of a class, mean over classes. ``dice``: of a class in an
        image that shows it, mean over images, then over classes. ``accuracy``: of pixels, mean over images.
    """

    train: Source
    """Images and class maps to which the linear map is fitted."""
    data: Source
    """Images and class maps on which the model is measured."""
    image: Column = "image"
    """Column of the images, and the model's tower for them."""
    mask: Column = "mask"
    """Column of the class maps, integers [H,W] from 0."""
    output: str = ""
    """Name of the model output, one token per patch, [B,N,D]. Empty: <image>/tokens. pixels: the pixels of each
    patch."""
    groups: Count = 1
    """Tokens of each place, which lie group by group (BandsStem); the features of a place are those of all of them."""
    ignored: Annotated[int, Range(-(2**31), 2**31 - 1)] = 255
    """Value in a class map that stands for no class. Such pixels are ignored."""
    background: bool = True
    """Whether class 0 counts in means over classes."""
    l2: Positive = 1.0
    """Strength of the penalty, 1 / C of scikit-learn. A patch counts as one example."""
    patches: Count = 500_000
    """Maximum number of patches for the fit, equally many per image, drawn at random."""
    max_iterations: Count = 1000
    """Maximum number of L-BFGS steps."""
    seed: Natural = 0
    """Seed of the choice of patches."""
    name: str = "segmentation"

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the output of the tokens, for pixels too: the tokens define the patches."""
        return (self.output if self.output not in ("", PIXELS) else f"{self.image}/tokens",)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for name, source in (("train", self.train), ("data", self.data)):
            fields = source.fields()
            if self.mask in fields and (fields[self.mask].classes or 0) < 2:
                yield f"{name} does not declare how many classes '{self.mask}' has, two or more: set it in the source"
            elif {self.image, self.mask} <= fields.keys() and fields[self.mask].shape != fields[self.image].shape[:2]:
                shapes = f"{fields[self.mask].shape} and {fields[self.image].shape}"
                yield f"'{self.mask}' of {name} must have the size of the image; the shapes are {shapes}"

    def run(self, model: Model) -> dict[str, float]:
        model.require(self.image)
        train, data = self.train.open(), self.data.open()
        names = [examples.classes.get(self.mask) for examples in (train, data)]
        if all(names) and names[0] != names[1]:
            raise JaxrepError(f"{self.name}: '{self.mask}' has different class names in train and data: {names}")
        weights, bias = (x.astype(np.float32) for x in self._fit(model, train))
        return self._metrics(
            np.concatenate([overlaps(*block, weights, bias) for block in self._blocks(model, data, "data")])
        )

    @property
    def _classes(self) -> int:
        return max(source.fields()[self.mask].classes or 0 for source in (self.train, self.data))

    def _fit(self, model: Model, train: Examples) -> LinearClassifier:
        """Fit the linear map of patches."""
        random, features, targets = np.random.default_rng(self.seed), [], []
        for patches, mask in self._blocks(model, train, "train"):
            n, rows, columns, _ = patches.shape
            count = min(rows * columns, max(1, self.patches // len(train)))
            chosen = random.permuted(np.tile(np.arange(rows * columns), (n, 1)), axis=1)[:, :count]
            index = np.arange(n)[:, None], chosen
            features.append(rearrange(patches, "n r c d -> n (r c) d")[index].reshape(n * count, -1))
            targets.append(class_fractions(mask, (rows, columns), self._classes)[index].reshape(n * count, -1))
        targets = np.concatenate(targets)
        if not targets.any():
            raise JaxrepError(f"{self.name}: no pixel of train has a class")
        return fit_standardized(np.concatenate(features), targets, self.l2, self.max_iterations)

    def _blocks(self, model: Model, examples: Examples, source: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield patches float32 [n,r,c,D] and class maps int32 [n,H,W] per block of images. K stands for no class.

        Raises JaxrepError: There is no image, a map holds another number, or there is not one token per patch.
        """
        if not len(examples):
            raise JaxrepError(f"{self.name}: {source} holds no example")
        model = copy.copy(model)
        model.block_size, start = min(model.block_size, BLOCK_SIZE), 0
        want = PIXELS if self.output == PIXELS else self.reads[0]
        blocks = output_blocks(model, examples, self.image, (want,), (), unit=False, arrays=(self.mask,), resize=False)
        for outputs, _ in blocks:
            mask = outputs[self.mask]
            unknown = ((mask < 0) | (mask >= self._classes)) & (mask != self.ignored)
            if unknown.any():
                image = int(unknown.any(axis=(1, 2)).argmax())
                raise JaxrepError(
                    f"{self.name}: '{self.mask}' of example {start + image} of {source} holds "
                    f"{mask[image][unknown[image]][0]}, and there are {self._classes} classes from 0"
                )
            patches = self._pixels(model, outputs[want], mask) if want == PIXELS else self._tokens(outputs[want], mask)
            yield patches, np.where(mask == self.ignored, self._classes, mask)
            start += len(mask)

    def _pixels(self, model: Model, images: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the numbers of the patches of images [n,H*W*C]: float32 [n,r,c,h*w*C]. Tokens define the patches."""
        images = images.reshape(*mask.shape, -1)
        tokens = model.outputs({self.image: images[:1]}, self.reads)[self.reads[0]]
        rows, columns = self._grid(tokens, mask)
        return rearrange(images, "n (r h) (c w) d -> n r c (h w d)", r=rows, c=columns)

    def _tokens(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return tokens [n,G*N,D] on their grid: float32 [n,r,c,G*D]."""
        rows, columns = self._grid(tokens, mask)
        require_finite(
            tokens.reshape(len(tokens), -1), lambda i: f"'{self.reads[0]}' of an image ({i} of {len(tokens)})"
        )
        return rearrange(tokens, "n (g r c) d -> n r c (g d)", r=rows, c=columns)

    def _grid(self, tokens: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
        """Return rows and columns of square patches. Raises JaxrepError if the tokens are no such grid."""
        if tokens.ndim != 3:
            raise JaxrepError(
                f"{self.name}: '{self.reads[0]}' is an array of shape {list(tokens.shape[1:])} per image, and not one "
                f"token per patch, [N,D], as {self.image}/tokens"
            )
        count, (height, width) = tokens.shape[1] // self.groups, mask.shape[1:]
        rows = max(1, round(math.sqrt(count * height / width)))
        columns = count // rows
        if rows * columns * self.groups != tokens.shape[1] or height % rows or width % columns:
            of = f" of {self.groups} groups" if self.groups > 1 else ""
            raise JaxrepError(
                f"{self.name}: {tokens.shape[1]} tokens{of} are no grid of patches of {height} x {width} pixels"
            )
        return rows, columns

    def _metrics(self, counts: Int[np.ndarray, "N 3 K"]) -> dict[str, float]:
        counts = counts.astype(np.int64)
        both, predicted, true = counts.sum(axis=0)
        measured = (true > 0) & (self.background | (np.arange(len(true)) > 0))
        if not measured.any():
            raise JaxrepError(f"{self.name}: no pixel of data has a class that counts")
        hits, truths = counts[:, 0], counts[:, 2]
        image, label = np.nonzero((truths > 0) & measured)
        dice = 2 * hits / np.maximum(counts[:, 1] + truths, 1)
        pixels = truths.sum(axis=1)
        metrics = {
            "mean_iou": float((both / np.maximum(predicted + true - both, 1))[measured].mean()),
            "dice": Sample(dice[image, label], "mean_of_means", groups=label),
            "accuracy": (hits.sum(axis=1) / np.maximum(pixels, 1))[pixels > 0],
        }
        return self.named(metrics)


def class_fractions(
    mask: Int[np.ndarray, "n H W"], grid: tuple[int, int], classes: int
) -> Float[np.ndarray, "n patches classes"]:
    """Return the fraction of each class among the pixels of each patch of a grid (rows, columns).

    A pixel of K has no class.
    """
    by_patch = rearrange(mask, "n (r h) (c w) -> (n r c) (h w)", r=grid[0], c=grid[1])
    cells = np.arange(len(by_patch))[:, None] * (classes + 1) + by_patch
    counts = np.bincount(cells.ravel(), minlength=len(by_patch) * (classes + 1)).reshape(len(mask), -1, classes + 1)
    return (counts[..., :classes] / by_patch.shape[1]).astype(np.float32)


def fit_standardized(
    features: Float[np.ndarray, "N D"], targets: Float[np.ndarray, "N K"], l2: float, max_iterations: int
) -> LinearClassifier:
    """Fit logistic regression on standardized features, and return it as a map of the original features."""
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt(features.var(axis=0, dtype=np.float64) + EPSILON)
    rows = ((features - mean) / deviation).astype(np.float32)
    fitted = LogisticRegression(rows, targets, targets.shape[1], max_iterations).fit(l2)
    weights = fitted.weights / deviation
    return LinearClassifier(weights, fitted.bias - weights @ mean)


@jax.jit
def overlaps(
    patches: Float[jax.Array, "n r c D"],
    mask: Int[jax.Array, "n H W"],
    weights: Float[jax.Array, "K D"],
    bias: Float[jax.Array, " K"],
) -> Int[jax.Array, "n 3 K"]:
    """Count pixels per image and class: correctly predicted, predicted, true. Pixels of K are ignored.

    The class of a pixel has the highest logit after bilinear upsampling between the centers of the patches.
    """
    classes = jnp.arange(len(bias))

    def count(image: tuple[jax.Array, jax.Array]) -> jax.Array:
        patches, mask = image
        logits = jnp.matmul(patches, weights.T, precision=jax.lax.Precision.HIGHEST) + bias
        predicted = jax.image.resize(logits, (*mask.shape, len(bias)), "linear").argmax(axis=-1)
        predicted = (predicted[..., None] == classes) & (mask < len(bias))[..., None]
        true = mask[..., None] == classes
        return jnp.stack([(predicted & true).sum((0, 1)), predicted.sum((0, 1)), true.sum((0, 1))])

    return jax.lax.map(count, (patches, mask))
