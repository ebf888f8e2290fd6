"""The objective on held-out data: what training lowers, measured on what it has not seen."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrep.batch import StepContext
from jaxrep.data.loading.loader import Tokenize, to_arrays
from jaxrep.data.loading.readable import read_blocks
from jaxrep.data.source import Source, stack
from jaxrep.errors import JaxrepError, hint
from jaxrep.evals.base import Eval, Model
from jaxrep.objectives.base import Term
from jaxrep.spec import Count, Natural, spec
from jaxrep.views.base import View

LATE = 2**30
"""Step at which schedules inside the objective are read: the end of any training."""


@spec
class HeldOutObjective(Eval):
    """Measure the objective on held-out examples, with draws that are the same in each run.

    The loss of a batch is that of a training step: with the draws of views and dropout, and with statistics of the
    batch in batch norms. A draw depends on the seed and on the place of the example alone. Nothing is updated. Give the
    views and the objective of the recipe, and data as those of its training, with pictures of that size.

    Metrics:
        ``loss``: the objective, mean over batches of equal size; examples that fill no batch are left out.
        ``loss/<term>`` and ``loss/<term>/<metric>``: its terms, without their weights.
    """

    data: Source
    """Held-out examples, with the columns of the training data."""
    views: tuple[View, ...] = ()
    """Views that change a batch, in this order."""
    objective: Mapping[str, Term]
    """Terms of the loss by name."""
    batch_size: Count = 256
    """Examples per batch, a multiple of the devices. Losses that compare the rows of a batch depend on it."""
    seed: Natural = 0
    """Seed of the draws."""
    name: str = "held_out"

    @property
    def reads(self) -> tuple[str, ...]:
        names = dict.fromkeys(name for term in self.objective.values() for name in term.reads)
        return tuple(name for name in names if name not in self.data.fields())

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.objective:
            yield "objective has no term: nothing would be measured"
        columns = self.data.fields()
        for need in (
            () if self.views else dict.fromkeys(need for term in self.objective.values() for need in term.needs)
        ):
            if need not in columns:
                yield f"data ({type(self.data).__name__}) has no column '{need}'; {hint(need, columns)}"

    def run(self, model: Model) -> dict[str, float]:
        losses, key, found = model.losses(self.views, self.objective), jax.random.key(self.seed), []
        for place, batch in enumerate(self._batches(model)):
            rows = np.arange(place * self.batch_size, (place + 1) * self.batch_size)
            batch["position"] = np.stack([np.zeros_like(rows), rows], axis=1).astype(np.uint32)
            ctx = StepContext(jnp.int32(LATE), key, batch["position"], total_steps=LATE, batch_size=self.batch_size)
            try:
                loss, metrics = losses(batch, ctx)
            except ValueError as error:  # of a field that the data lack, or that has another shape
                raise JaxrepError(f"{self.name}: {error}") from error
            found.append({"loss": loss, **metrics})
        if not found:
            raise JaxrepError(f"{self.name}: data fill no batch of {self.batch_size} examples: set batch_size")
        means = {name: np.array([each[name] for each in found], np.float64) for name in found[0]}
        if not np.isfinite(means["loss"]).all():
            raise JaxrepError(f"{self.name}: the loss is not finite: look for the step at which training diverged")
        return self.named(means)

    def _batches(self, model: Model) -> Iterator[dict[str, Any]]:
        """Yield batches as training reads them, of the readable examples in their order."""
        texts = [name for name, field in self.data.fields().items() if field.dtype == "str"]
        texts = tuple(name for name in texts if f"{name}/valid" in model.fields)
        if texts and model.tokenizer is None:
            raise JaxrepError(f"{self.name}: the model has no tokenizer, so it cannot read '{texts[0]}'")
        tokenize = Tokenize(model.tokenizer, texts) if model.tokenizer is not None else None
        rows: list[dict[str, Any]] = []
        for columns in read_blocks(self.data.open(), self.batch_size):
            rows += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            if len(rows) >= self.batch_size:
                full, rows = rows[: self.batch_size], rows[self.batch_size :]
                yield to_arrays({name: stack([row[name] for row in full]) for name in full[0]}, tokenize)
