"""Linear segmentation: how well the classes of pixels follow from the tokens of patches (Oquab et al. 2023, DINOv2,
arXiv:2304.07193, section 7.4; Pérez-García et al. 2024, RAD-DINO, arXiv:2401.10815)."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from jaxrep.data.loading.readable import blocks
from jaxrep.data.source import Examples, Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, missing_columns
from jaxrep.evals.embed import PIXELS
from jaxrep.metrics.logistic_regression import Linear, Logistic
from jaxrep.metrics.ranking import require_finite
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec

PICTURES_AT_ONCE = 64
EPSILON = 1e-5
"""Added to the variance of each feature, as in batch norm."""


@spec
class Segmentation(Eval):
    """A linear map from frozen patch tokens to classes gives logits of a low resolution, which are upsampled to pixels.

    Tokens are standardized, where DINOv2's head has a batch norm, and the map is fitted by logistic regression: to the
    shares of the classes in each patch, which is cross-entropy over pixels that have the logits of their patch. On
    ``data`` logits are upsampled bilinearly. Pictures are read at the size that the data give them.

    ``mean_iou``: intersection over union of all pixels of a class, mean over classes; ``dice``: of a class in a picture
    that shows it, mean over pictures, then over classes; ``accuracy``: of pixels, mean over pictures.
    """

    train: Source
    """Pictures and maps of classes that it is fitted to."""
    data: Source
    """Pictures and maps of classes that are measured."""
    image: str = "image"
    """Field of the images, and the model's tower for them."""
    mask: str = "mask"
    """Field of the maps, integers [H,W] from 0."""
    output: str = ""
    """Output of the method's rows, a token a patch, [B,N,D]; empty: <image>/tokens; pixels: each patch's own pixels."""
    ignored: int = 255
    """In a map, what stands for no class: such pixels count nowhere."""
    background: bool = True
    """Whether class 0 counts in means over classes."""
    l2: float = 1.0
    """Strength of the penalty, 1 / C of scikit-learn; a patch counts as one example."""
    patches: int = 500_000
    """Most patches that are fitted to, as many of each picture, drawn at random."""
    max_iterations: int = 1000
    """Most steps of L-BFGS."""
    seed: int = 0
    """Of the choice of patches."""
    name: str = "segmentation"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Of pixels too: the patches are those of the tokens."""
        return (self.output if self.output not in ("", PIXELS) else f"{self.image}/tokens",)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.l2 <= 0:
            yield f"l2 is above 0, and not {self.l2}"
        if self.patches < 1 or self.max_iterations < 1:
            yield f"patches and max_iterations are at least 1, got {self.patches} and {self.max_iterations}"
        for where, source in (("train", self.train), ("data", self.data)):
            yield from missing_columns(source, self.image, self.mask, where=where)
            fields = source.fields()
            if self.mask in fields and (fields[self.mask].classes or 0) < 2:
                yield f"{where} does not say how many classes '{self.mask}' has, two or more: set it in the source"
            elif {self.image, self.mask} <= fields.keys() and fields[self.mask].shape != fields[self.image].shape[:2]:
                sizes = f"{fields[self.mask].shape} and {fields[self.image].shape}"
                yield f"'{self.mask}' of {where} is as large as the picture; their shapes are {sizes}"

    def run(self, model: Model) -> dict[str, float]:
        model.require(self.image)
        train, data = self.train.open(), self.data.open()
        names = [examples.classes.get(self.mask) for examples in (train, data)]
        if all(names) and names[0] != names[1]:
            raise JaxrepError(f"{self.name}: '{self.mask}' has classes of other names in train than in data: {names}")
        weights, bias = self._fitted(model, train)
        counts = [
            overlaps(patches, truth, weights.astype(np.float32), bias.astype(np.float32))
            for patches, truth in self._blocks(model, data, "data")
        ]
        return self._metrics(np.concatenate(counts))

    @property
    def _classes(self) -> int:
        return max(source.fields()[self.mask].classes or 0 for source in (self.train, self.data))

    def _fitted(self, model: Model, train: Examples) -> Linear:
        """The linear map, of patches as the model gives them."""
        random, features, targets = np.random.default_rng(self.seed), [], []
        for patches, truth in self._blocks(model, train, "train"):
            n, rows, columns, _ = patches.shape
            each = min(rows * columns, max(1, self.patches // len(train)))
            chosen = random.permuted(np.tile(np.arange(rows * columns), (n, 1)), axis=1)[:, :each]
            taken = np.arange(n)[:, None], chosen
            features.append(rearrange(patches, "n r c d -> n (r c) d")[taken].reshape(n * each, -1))
            targets.append(shares(truth, (rows, columns), self._classes)[taken].reshape(n * each, -1))
        targets = np.concatenate(targets)
        if not targets.any():
            raise JaxrepError(f"{self.name}: no pixel of train has a class")
        return standardized(np.concatenate(features), targets, self.l2, self.max_iterations)

    def _blocks(self, model: Model, examples: Examples, where: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Patches float32 [n,r,c,D] of some pictures after some, and their maps int32 [n,H,W], where K is no class.

        Raises JaxrepError: there is no picture, a map holds another number, or there is no token a patch.
        """
        if not len(examples):
            raise JaxrepError(f"{self.name}: {where} holds no example")
        start = 0
        for columns in blocks(examples, PICTURES_AT_ONCE):
            pictures, truth = np.asarray(columns[self.image]), np.asarray(columns[self.mask])
            unknown = ((truth < 0) | (truth >= self._classes)) & (truth != self.ignored)
            if unknown.any():
                picture = int(unknown.any(axis=(1, 2)).argmax())
                raise JaxrepError(
                    f"{self.name}: '{self.mask}' of example {start + picture} of {where} holds "
                    f"{truth[picture][unknown[picture]][0]}, and there are {self._classes} classes from 0"
                )
            yield self._patches(model, pictures), np.where(truth == self.ignored, self._classes, truth)
            start += len(pictures)

    def _patches(self, model: Model, pictures: np.ndarray) -> np.ndarray:
        """Tokens, or pixels from 0 to 1, of the patches of pictures uint8 [n,H,W,C]: float32 [n,r,c,D]."""
        (name,), pixels = self.reads, self.output == PIXELS
        try:
            tokens = model.outputs({self.image: pictures[:1] if pixels else pictures}, (name,))[name]
        except ValueError as error:  # of an encoder that reads no pictures of this size
            raise JaxrepError(f"{self.name}: {error}") from error
        if tokens.ndim != 3:
            raise JaxrepError(
                f"{self.name}: '{name}' is an array of shape {list(tokens.shape[1:])} a picture, and not of a token a "
                f"patch, [N,D], as {self.image}/tokens"
            )
        rows, columns = self._grid(tokens.shape[1], *pictures.shape[1:3])
        if pixels:
            return rearrange(pictures / np.float32(255), "n (r h) (c w) d -> n r c (h w d)", r=rows, c=columns)
        require_finite(tokens.reshape(len(tokens), -1), lambda i: f"'{name}' of a picture ({i} of {len(tokens)})")
        return rearrange(tokens, "n (r c) d -> n r c d", r=rows)

    def _grid(self, tokens: int, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches: as many tokens of squares. Raises JaxrepError: there are none such."""
        rows = max(1, round(math.sqrt(tokens * height / width)))
        columns = tokens // rows
        if rows * columns != tokens or height % rows or width % columns:
            raise JaxrepError(f"{self.name}: {tokens} tokens are no grid of patches of {height} x {width} pixels")
        return rows, columns

    def _metrics(self, counts: Int[np.ndarray, "N 3 K"]) -> dict[str, float]:
        counts = counts.astype(np.int64)
        both, found, true = counts.sum(axis=0)
        occurs = (true > 0) & (self.background | (np.arange(len(true)) > 0))
        if not occurs.any():
            raise JaxrepError(f"{self.name}: no pixel of data has a class that counts")
        hits, truths = counts[:, 0], counts[:, 2]
        picture, label = np.nonzero((truths > 0) & occurs)
        dice = 2 * hits / np.maximum(counts[:, 1] + truths, 1)
        known = truths.sum(axis=1)
        return {
            f"{self.name}/mean_iou": float((both / np.maximum(found + true - both, 1))[occurs].mean()),
            f"{self.name}/dice": Sample(dice[picture, label], "mean_of_means", groups=label),
            f"{self.name}/accuracy": Sample((hits.sum(axis=1) / np.maximum(known, 1))[known > 0]),
        }


def shares(
    truth: Int[np.ndarray, "n H W"], grid: tuple[int, int], classes: int
) -> Float[np.ndarray, "n patches classes"]:
    """Share of each class among the pixels of every patch of a grid (rows, columns); a pixel of K has none."""
    by_patch = rearrange(truth, "n (r h) (c w) -> (n r c) (h w)", r=grid[0], c=grid[1])
    places = np.arange(len(by_patch))[:, None] * (classes + 1) + by_patch
    counts = np.bincount(places.ravel(), minlength=len(by_patch) * (classes + 1)).reshape(len(truth), -1, classes + 1)
    return (counts[..., :classes] / by_patch.shape[1]).astype(np.float32)


def standardized(
    features: Float[np.ndarray, "N D"], targets: Float[np.ndarray, "N K"], l2: float, max_iterations: int
) -> Linear:
    """Logistic regression on features of mean 0 and deviation 1, written as a map of the features themselves."""
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt(features.var(axis=0, dtype=np.float64) + EPSILON)
    rows = ((features - mean) / deviation).astype(np.float32)
    fitted = Logistic(rows, targets, targets.shape[1], max_iterations).fit(l2)
    weights = fitted.weights / deviation
    return Linear(weights, fitted.bias - weights @ mean)


@jax.jit
def overlaps(
    patches: Float[jax.Array, "n r c D"],
    truth: Int[jax.Array, "n H W"],
    weights: Float[jax.Array, "K D"],
    bias: Float[jax.Array, " K"],
) -> Int[jax.Array, "n 3 K"]:
    """Pixels of each class, a picture each: rightly found, found, true; where ``truth`` is K none are counted.

    A pixel's class is that of the highest of the patches' logits, upsampled bilinearly between the patches' middles.
    """
    every = jnp.arange(len(bias))

    def one(picture: tuple[jax.Array, jax.Array]) -> jax.Array:
        patches, truth = picture
        logits = jnp.matmul(patches, weights.T, precision=jax.lax.Precision.HIGHEST) + bias
        found = jax.image.resize(logits, (*truth.shape, len(bias)), "linear").argmax(axis=-1)
        found = (found[..., None] == every) & (truth < len(bias))[..., None]
        true = truth[..., None] == every
        return jnp.stack([(found & true).sum((0, 1)), found.sum((0, 1)), true.sum((0, 1))])

    return jax.lax.map(one, (patches, truth))
