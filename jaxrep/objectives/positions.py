"""The term of predicted places (Zhai et al. 2022, Position Prediction, arXiv:2207.07611)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.encoders.base import Encoder
from jaxrep.losses.cross_entropy import place_cross_entropy
from jaxrep.objectives.base import Metrics, Output, SeparableTerm
from jaxrep.spec import walk


@dataclass(frozen=True)
class PatchPosition(SeparableTerm):
    """Classify the place of every token among all N places; the mean over tokens (MP3).

    The metric ``accuracy`` is the share of tokens whose place is found; chance is 1 / N.
    """

    measured: ClassVar[tuple[str, ...]] = ("accuracy",)

    x: Output
    """Name of the logits of all tokens, [B,N,N], which an encoder without positions predicts."""

    def method_problems(self, method: Any) -> Iterator[str]:
        for path, part in walk(method, "method"):
            if isinstance(part, Encoder) and part.tells_places:
                yield (
                    f"{path} tells its tokens where they lie, so that its input would contain the answer: take a "
                    'transformer with positions = "none", without rotary, local attention and overlapping patches'
                )

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        return place_cross_entropy(outputs[self.x])

    def measures(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Metrics:
        logits = outputs[self.x]
        found = jnp.argmax(logits, axis=-1) == jnp.arange(logits.shape[1])
        return {"accuracy": jnp.mean(found.astype(jnp.float32), axis=1)}
