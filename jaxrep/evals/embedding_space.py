"""Geometry of embeddings: the space of each tower, and the relation of the spaces of two towers."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from jaxrep.data.loading.readable import read_columns
from jaxrep.data.source import Source, as_captions
from jaxrep.data.transforms.base import Subset
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, Model
from jaxrep.evals.embed import embed_rows, embed_texts
from jaxrep.losses.geometry import uniformity
from jaxrep.metrics import geometry
from jaxrep.metrics.neighbors import intrinsic_dimension, mutual_neighbors
from jaxrep.metrics.sample import Sample
from jaxrep.reads import Reads
from jaxrep.spec import Count, Natural, spec


@spec
class EmbeddingSpace(Eval):
    """Measure the space of each tower, and of each two towers, on paired examples.

    ``jaxrep/metrics/geometry.py`` and ``jaxrep/metrics/neighbors.py`` define the metrics.

    Metrics:
        ``<tower>/``: ``effective_rank``, ``intrinsic_dimension``, ``uniformity``, ``anisotropy`` (mean cosine of two
        examples). ``<tower>_<tower>/``: ``cka`` and ``mutual_neighbors``, which compare any two spaces. For two
        spaces of equal width also ``alignment``, ``uniformity`` across the towers, ``modality_gap``,
        ``gap_of_variance``, ``gap_of_alignment``, ``separability``, and ``mean_cosine`` of negative pairs.
    """

    data: Source
    """Pairs. Of several texts per example the first is used."""
    towers: Annotated[tuple[str, ...], Reads(outputs=("{}",), columns=("{}",))] = ("image", "text")
    """Columns of the data, images or texts. The tower of the same name reads each column."""
    examples: Natural = 4096
    """Maximum number of examples, evenly spaced. Nearest neighbors take quadratic time. 0: all."""
    neighbors: Count = 10
    """Number of nearest neighbors per example for mutual_neighbors."""
    name: str = "geometry"

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(set(self.towers)) < len(self.towers):
            yield f"towers names each tower once, got {self.towers}"

    def run(self, model: Model) -> dict[str, float]:
        spaces = self._embed(model)
        groups = {tower: space_metrics(x) for tower, x in spaces.items()}
        for (a, x), (b, y) in itertools.combinations(spaces.items(), 2):
            paired = paired_metrics(x, y) if x.shape == y.shape else {}
            groups[f"{a}_{b}"] = space_similarity(x, y, self.neighbors) | paired
        return self.named({f"{group}/{name}": x for group, part in groups.items() for name, x in part.items()})

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
            if tower not in texts:  # reads the texts of the same rows: an unreadable example has no row
                spaces[tower], columns = embed_rows(model, examples, tower, columns=texts, unit=True)
        for tower, column in (columns or read_columns(examples, texts)).items():
            spaces[tower] = embed_texts(model, [as_captions(value)[0] for value in column], tower)
        return spaces


def space_metrics(x: np.ndarray) -> dict[str, float]:
    """Measure one space of unit rows [N,D]."""
    return {
        "effective_rank": float(geometry.effective_rank(jnp.asarray(x))),
        "intrinsic_dimension": intrinsic_dimension(x),
        "uniformity": float(uniformity(jnp.asarray(x))),
        "anisotropy": geometry.mean_cosine(x),
    }


def space_similarity(x: np.ndarray, y: np.ndarray, neighbors: int = 10) -> dict[str, float]:
    """Compare two spaces [N,D] and [N,E] of paired rows: of two towers, two layers, or two models."""
    return {"cka": geometry.linear_cka(x, y), "mutual_neighbors": Sample(mutual_neighbors(x, y, neighbors))}


def paired_metrics(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Measure pairs of unit rows in one space [N,D], and the gap between their towers."""
    return {
        "alignment": Sample(np.sum((a.astype(np.float64) - b) ** 2, axis=1)),
        "uniformity": float(uniformity(jnp.asarray(a), jnp.asarray(b))),
        "mean_cosine": geometry.mean_cosine(a, b),
        "modality_gap": float(geometry.modality_gap(jnp.asarray(a), jnp.asarray(b))),
        **geometry.modality_gap_shares(a, b),
        "separability": Sample(geometry.linear_separability(a, b)),
    }
