"""Metric learning on labeled rows and on mixtures of two rows: ``jaxrep.losses.metric_losses``, bound by name."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.metric_learning import Kind, metric_losses
from jaxrep.objectives.base import Column, Embedding, Metrics, Output, Reads, Term


@dataclass(frozen=True)
class MetricLearning(Term):
    """Compare each row, or each class's proxy, with the rows of the batch."""

    x: Embedding
    """Name of the embedding, [B,D]."""
    _: KW_ONLY
    kind: Kind = "multi_similarity"
    """Which loss."""
    label: Column = "label"
    """Field of the classes."""
    proxies: Output = ""
    """Name of a shared table [K,D] of anchors, one per class; empty: the rows are the anchors."""

    def problems(self) -> Iterator[str]:
        if (self.kind == "proxy_anchor") != bool(self.proxies):
            yield f"kind '{self.kind}' and proxies='{self.proxies}' do not fit: proxy_anchor alone has such a table"

    def anchors(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return unit rows [A,D] and their classes [A]."""
        if not self.proxies:
            return normalize(outputs[self.x]), batch[self.label]
        table = normalize(outputs[self.proxies])
        return table, jnp.arange(len(table))

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        anchors, classes = self.anchors(outputs, batch)
        same = classes[:, None] == batch[self.label]
        included = jnp.ones_like(same) if self.proxies else ~jnp.eye(len(same), dtype=bool)
        losses = metric_losses(anchors, normalize(outputs[self.x]), same.astype(jnp.float32), included, kind=self.kind)
        return jnp.mean(losses), {}


@dataclass(frozen=True)
class MixedMetricLearning(MetricLearning):
    """Compare each row or proxy with mixtures of a row and its partner (Venkataramanan et al. 2022, section 3.3).

    An anchor meets the mixtures of which one part is of its class and the other is not, and of which it is no part.
    Reads ``<mixed>`` [B,D], ``<mixed>/partner`` int32 [B] and ``<mixed>/share`` float [B], the share of row i.
    """

    _: KW_ONLY
    mixed: Annotated[str, Reads(outputs=("{}", "{}/partner", "{}/share"))] = "mixed"
    """Name of the embeddings of the mixtures."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        anchors, classes = self.anchors(outputs, batch)
        partner, share = outputs[f"{self.mixed}/partner"], outputs[f"{self.mixed}/share"]
        first, second = (classes[:, None] == batch[self.label][rows] for rows in (slice(None), partner))
        included = first ^ second
        if not self.proxies:
            row = jnp.arange(len(classes))
            included &= (row[:, None] != row) & (row[:, None] != partner)
        targets = share * first + (1 - share) * second
        losses = metric_losses(anchors, normalize(outputs[self.mixed]), targets, included, kind=self.kind)
        return jnp.mean(losses), {}
