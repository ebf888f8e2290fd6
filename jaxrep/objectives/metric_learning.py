"""Metric learning on labeled rows, and on mixtures of two of them: ``jaxrep.losses.metric_learning`` bound by name."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.metric_learning import Kind, metric_losses
from jaxrep.objectives.base import Metrics, Term, nonempty


@dataclass(frozen=True)
class MetricLearning(Term):
    """Each row, or each class's proxy, against the rows of the batch."""

    x: str
    """Name of the embedding, [B,D]."""
    _: KW_ONLY
    kind: Kind = "multi_similarity"
    """Which loss."""
    label: str = "label"
    """Field of the classes."""
    proxies: str = ""
    """Name of a shared table [K,D] of anchors, a class each; empty: the rows are the anchors."""

    def problems(self) -> Iterator[str]:
        if (self.kind == "proxy_anchor") != bool(self.proxies):
            yield f"kind '{self.kind}' and proxies='{self.proxies}' do not fit: proxy_anchor alone has such a table"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x, *nonempty(self.proxies))

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.x,)

    def anchors(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Unit rows [A,D] and their classes [A]."""
        if not self.proxies:
            return normalize(outputs[self.x]), batch[self.label]
        table = normalize(outputs[self.proxies])
        return table, jnp.arange(len(table))

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        anchors, classes = self.anchors(outputs, batch)
        same = classes[:, None] == batch[self.label]
        enters = jnp.ones_like(same) if self.proxies else ~jnp.eye(len(same), dtype=bool)
        losses = metric_losses(anchors, normalize(outputs[self.x]), same.astype(jnp.float32), enters, kind=self.kind)
        return jnp.mean(losses), {}


@dataclass(frozen=True)
class MixedMetricLearning(MetricLearning):
    """As ``MetricLearning``, against mixtures of a row and its partner (Venkataramanan et al. 2022, section 3.3).

    Of an anchor those mixtures enter of which one part is of its class and the other is not, and which are not made of
    itself. Reads ``<mixed>`` [B,D], ``<mixed>/partner`` int32 [B] and ``<mixed>/share`` float [B], the share of row i.
    """

    _: KW_ONLY
    mixed: str = "mixed"
    """Name of the embeddings of the mixtures."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, self.mixed, f"{self.mixed}/partner", f"{self.mixed}/share")

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        anchors, classes = self.anchors(outputs, batch)
        partner, share = outputs[f"{self.mixed}/partner"], outputs[f"{self.mixed}/share"]
        first, second = (classes[:, None] == batch[self.label][rows] for rows in (slice(None), partner))
        enters = first ^ second
        if not self.proxies:
            row = jnp.arange(len(classes))
            enters &= (row[:, None] != row) & (row[:, None] != partner)
        targets = share * first + (1 - share) * second
        losses = metric_losses(anchors, normalize(outputs[self.mixed]), targets, enters, kind=self.kind)
        return jnp.mean(losses), {}
