"""Geometry: how the embeddings of every tower lie in their space, and how those of every two towers lie together."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrep.data.source import Source
from jaxrep.data.transforms.select import Subset
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, missing_columns
from jaxrep.evals.embed import embed_images, embed_texts
from jaxrep.losses.geometry import uniformity
from jaxrep.metrics.geometry import effective_rank, gap_parts, linear_cka, mean_cosine, modality_gap, separability
from jaxrep.metrics.neighbors import intrinsic_dimension, mutual_neighbors
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class EmbeddingSpace(Eval):
    """Measures of each tower's space, and of each two, on paired examples; towers named as fields of the data.

    ``<name>/<tower>/``: effective_rank, intrinsic_dimension, uniformity, anisotropy (mean cosine of others).
    ``<name>/<tower>_<tower>/``: cka and mutual_neighbors (comparable between any two spaces); and where both have one
    width: alignment, uniformity across, modality_gap, gap_of_variance, gap_of_alignment, separability,
    mean_cosine of what is no pair. ``evals/geometry.py`` and ``evals/neighbors.py`` define them.
    """

    data: Source
    """Pairs; of several texts the first is taken."""
    towers: tuple[str, ...] = ("image", "text")
    """Fields of the data, pictures or texts, each read by the model's tower of this name."""
    examples: int = 4096
    """At most so many, evenly spaced over the data; nearest neighbors take time with their square. 0: all."""
    neighbors: int = 10
    """Of each example, the nearest ones that two spaces should share."""
    name: str = "geometry"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.towers

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.towers or len(set(self.towers)) < len(self.towers):
            yield f"towers names at least one tower, each once, not {self.towers}"
        if self.examples < 0 or self.neighbors < 1:
            yield f"examples and neighbors count from 0 and from 1; they are {self.examples} and {self.neighbors}"
        yield from missing_columns(self.data, *self.towers)

    def run(self, model: Model) -> dict[str, float]:
        spaces = self._embed(model)
        metrics = {f"{self.name}/{t}/{what}": value for t, x in spaces.items() for what, value in one_space(x).items()}
        for (a, x), (b, y) in itertools.combinations(spaces.items(), 2):
            both = two_spaces(x, y, self.neighbors) | (towers_apart(x, y) if x.shape == y.shape else {})
            metrics |= {f"{self.name}/{a}_{b}/{what}": value for what, value in both.items()}
        return metrics

    def _embed(self, model: Model) -> dict[str, np.ndarray]:
        examples, fields = self.data.open(), self.data.fields()
        count = min(self.examples or len(examples), len(examples))
        if count <= max(self.neighbors, 2):
            raise JaxrepError(f"{self.name}: {count} examples are too few for {self.neighbors} neighbors of each")
        examples = Subset(examples, np.linspace(0, len(examples) - 1, count).astype(np.int64))
        texts = [tower for tower in self.towers if fields[tower].dtype == "str"]
        spaces: dict[str, Any] = dict.fromkeys(self.towers)
        columns: Mapping[str, Any] = {}
        for tower in self.towers:
            if tower not in texts:  # the texts of the same rows: an example that cannot be read has none
                spaces[tower], columns = embed_images(model, examples, tower, texts)
        for tower in texts:
            found = columns[tower] if columns else examples.column(tower)
            spaces[tower] = embed_texts(model, [text if isinstance(text, str) else text[0] for text in found], tower)
        return spaces


def one_space(x: np.ndarray) -> dict[str, float]:
    """Measures of unit rows [N,D]."""
    return {
        "effective_rank": float(effective_rank(jnp.asarray(x))),
        "intrinsic_dimension": intrinsic_dimension(x),
        "uniformity": float(uniformity(jnp.asarray(x))),
        "anisotropy": mean_cosine(x),
    }


def two_spaces(x: np.ndarray, y: np.ndarray, neighbors: int = 10) -> dict[str, float]:
    """How alike two spaces [N,D] and [N,E] are whose rows belong together: of two towers, two layers, two models."""
    return {"cka": linear_cka(x, y), "mutual_neighbors": Sample(mutual_neighbors(x, y, neighbors))}


def towers_apart(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """How pairs of unit rows lie in one space [N,D], and what parts their towers."""
    return {
        "alignment": Sample(np.sum((a.astype(np.float64) - b) ** 2, axis=1)),
        "uniformity": float(uniformity(jnp.asarray(a), jnp.asarray(b))),
        "mean_cosine": mean_cosine(a, b),
        "modality_gap": float(modality_gap(jnp.asarray(a), jnp.asarray(b))),
        **gap_parts(a, b),
        "separability": Sample(separability(a, b)),
    }
