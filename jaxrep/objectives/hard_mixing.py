"""Add mixtures of the hardest rows of a queue to the negatives of a contrastive term (MoCHi).

Kalantidis et al. 2020, arXiv:2010.01028.
"""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.hard_mixing import draw, hard_mixtures
from jaxrep.losses.pairwise.pairs import Side
from jaxrep.losses.pairwise.scan import Rows
from jaxrep.objectives.base import Metrics, Wrapper
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.spec import Natural


@dataclass(frozen=True)
class HardMixtures(Wrapper):
    """Compute a contrastive term with mixtures of each row's nearest extra rows as negatives of that row alone.

    Rows that meet ``extra_b`` (a queue) get mixtures of it, and those that meet ``extra_a`` of that. The metric
    ``first`` counts them.
    """

    term: Contrastive
    """The term, with a queue in ``extra_a``, ``extra_b`` or both."""
    _: KW_ONLY
    nearest: Natural = 1024
    """Number N of the nearest extra rows that are mixed."""
    mixed: Natural = 1024
    """Number s of mixtures of two of them; the share is uniform from 0 to 1."""
    with_query: Natural = 128
    """Number s' of mixtures of one of them and the row itself, whose share is uniform from 0 to 0.5."""
    start: Natural = 0
    """Step from which there are mixtures."""

    def problems(self) -> Iterator[str]:
        if (self.mixed or self.with_query) and not self.nearest:
            yield f"mixed={self.mixed} and with_query={self.with_query} mix the nearest rows, and nearest=0 takes none"
        if not (self.term.extra_a or self.term.extra_b):
            yield "the term has no extra rows to mix: name a queue in its extra_b"
        if self.term.row_extra_a or self.term.row_extra_b:
            yield "the term has row_extra rows, whose place the mixtures take: leave them out"

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        a, b, logit_scale, options = self.term.inputs(outputs, batch)
        if self.mixed or self.with_query:
            left, right = options.sides(a, b, 1.0)
            here = ctx.at(f"mixtures/{self.term.a}/{self.term.b}")
            for_a, for_b = self._mixtures(left, here.at("b")), self._mixtures(right, here.at("a"))
            options = replace(options, row_extra_b=for_a, row_extra_a=for_b)
        return self.term.loss(a, b, logit_scale, options), self.term.metrics(a, b, logit_scale, options)

    def _mixtures(self, side: Side, ctx: StepContext) -> Rows | None:
        """Return the mixtures [B,M,D] of the extra rows that a side meets; None if it meets none."""
        if side.extra is None:
            return None
        queue = side.extra
        queries = side.plain._replace(ids=side.plain.ids if queue.ids else ())
        draws = draw(ctx.keys("draws"), self.nearest, self.mixed, self.with_query)
        x, any_near = hard_mixtures(queries, queue, draws, self.nearest)
        present = any_near & (ctx.step >= self.start)
        return Rows(x, (), jnp.broadcast_to(present[:, None], x.shape[:2]))
