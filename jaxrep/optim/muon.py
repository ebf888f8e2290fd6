"""Muon: momentum of matrices made orthogonal, and AdamW for all other parameters."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxrep.optim.optimizers import AdamMoments, Decay, Updater, add_decay
from jaxrep.paths import PathError, match, parse, select
from jaxrep.spec import Count, Positive, spec

Leaves = Mapping[str, Any]
HEADS_OF_OUTPUTS = ("query", "key", "value")
"""Layers whose kernel is [inputs, heads, channels]; all others end with one axis of outputs."""


@spec
class Muon(AdamMoments):
    """Update matrices by momentum whose singular values are all made about 1, and the others by AdamW.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon) by optax. The root mean square of a step is that of AdamW's
    steps (Liu et al. 2025, arXiv:2502.16982, section 2.2), so both share one learning rate and one weight decay. Each
    layer of a stack is a matrix of its own; the heads of a layer are one matrix together.
    """

    matrices: tuple[str, ...] = ("**/blocks/**/kernel",)
    """Patterns of the matrices. Embeddings, first and last layers are better left to AdamW."""
    momentum: Decay = 0.95
    """Decay of the mean of a matrix's gradients."""
    nesterov: bool = True
    """Whether to look one step of momentum ahead."""
    iterations: Count = 5
    """Steps of the Newton-Schulz iteration that makes a matrix orthogonal."""
    rms: Positive = 0.2
    """Root mean square of a matrix's step before the learning rate; that of AdamW's steps is 0.2 to 0.4."""

    def problems(self) -> Iterator[str]:
        for pattern in self.matrices:
            try:
                parse(pattern)
            except PathError as error:
                yield str(error)
            if "[" in pattern:
                yield f"matrices: '{pattern}' names some layers, and all layers of a stack are updated alike"

    def direction(self) -> optax.GradientTransformationExtraArgs:
        axes: Any = _axes
        muon = scale_by_muon(
            ns_steps=self.iterations, beta=self.momentum, nesterov=self.nesterov, weight_dimension_numbers=axes
        )
        sized: Any = self._sized
        kinds: Any = {
            "matrix": optax.chain(muon, optax.stateless(sized)),
            "other": self.adam(),
        }
        return optax.chain(optax.partition(kinds, self._kinds), add_decay())

    def _sized(self, directions: Leaves, params: Any) -> Leaves:
        """Scale orthogonal matrices [m,n], whose root mean square is 1 / sqrt(max(m, n)), to that of the spec."""

        def side(path: str, shape: tuple[int, ...]) -> int:
            inputs = _inputs(path, len(shape))
            return max(math.prod(shape[:inputs]), math.prod(shape[inputs:]))

        return {
            path: d if isinstance(d, optax.MaskedNode) else d * (side(path, d.shape) ** 0.5 * self.rms)
            for path, d in directions.items()
        }

    def build(self, params: Mapping[str, Any]) -> Updater:
        """Return the optimizer of a model. Raises PathError: a pattern names nothing."""
        for pattern in self.matrices:
            select(pattern, params)
        return super().build(params)

    def _kinds(self, leaves: Leaves) -> dict[str, str]:
        """Return which parameters are matrices: arrays that a pattern names, of one layer, with two axes or more."""
        named = {path for path in leaves for pattern in self.matrices if match(pattern, path) is not None}
        return {path: "matrix" if path in named and leaf.ndim > 1 else "other" for path, leaf in leaves.items()}


def _axes(leaves: Leaves) -> dict[str, Any]:
    """Return the axes of inputs and of outputs of each matrix; what is masked stays as it is."""

    def axes(path: str, ndim: int) -> MuonDimensionNumbers:
        inputs = _inputs(path, ndim)
        return MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, ndim)))

    masked = optax.MaskedNode
    return {path: leaf if isinstance(leaf, masked) else axes(path, leaf.ndim) for path, leaf in leaves.items()}


def _inputs(path: str, ndim: int) -> int:
    """Return how many of a kernel's axes are inputs."""
    return 1 if path.split("/")[-2:][0] in HEADS_OF_OUTPUTS else ndim - 1
