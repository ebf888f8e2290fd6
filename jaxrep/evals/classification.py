"""Accuracy of a classifier's own heads on held-out pictures."""

from collections.abc import Iterator

import numpy as np

from jaxrep.data.source import Source
from jaxrep.errors import UsageError, hint
from jaxrep.evals.eval import Eval
from jaxrep.evals.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class Classification(Eval):
    """Top-k accuracy of each linear head: ``classification/top1``, or ``classification/<d>/top1`` for nested heads."""

    data: Source
    """Pictures with their labels."""
    label: str = "label"
    """Field of the labels."""
    dims: tuple[int, ...] = ()
    """Widths of the nested heads; empty: one head over all features."""
    ks: tuple[int, ...] = (1, 5)
    """A picture is right at k where its class is among the k best."""
    name: str = "classification"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("image", *(f"classes/{dim}" for dim in self.dims)) if self.dims else ("image", "classes")

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        fields = self.data.fields()
        if self.label not in fields:
            yield f"the data has no field '{self.label}'; {hint(self.label, fields)}"

    def run(self, model: Model) -> dict[str, float]:
        examples = self.data.open()
        labels = np.asarray(examples.column(self.label))
        features = model.outputs({"image": np.stack([model.image(x) for x in examples.column("image")])}, ("image",))[
            "image"
        ]
        metrics = {}
        for dim in self.dims or (features.shape[1],):
            table = f"classes/{dim}" if self.dims else "classes"
            shared = model.shared((table, f"{table}/bias"))
            logits = features[:, :dim] @ shared[table].T + shared[f"{table}/bias"]
            ranks = strict_ranks(logits, labels)
            prefix = f"{self.name}/{dim}" if self.dims else self.name
            metrics |= {f"{prefix}/top{k}": Sample(ranks <= k) for k in self.ks}
        return metrics


def strict_ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rank [n] of the right class among the logits [n,K], from 1; a tie counts against the model.

    Raises UsageError: a logit is not a number, or a label is none of the classes.
    """
    if not np.isfinite(logits).all():
        raise UsageError(f"the logits of example {np.flatnonzero(~np.isfinite(logits).all(axis=1))[0]} are not finite")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UsageError(
            f"labels run from {labels.min()} to {labels.max()}, and the head has {logits.shape[1]} classes"
        )
    right = np.take_along_axis(logits, labels[:, None], axis=1)
    return (logits >= right).sum(axis=1)
