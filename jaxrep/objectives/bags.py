"""The term of a student that predicts bags of visual words (Gidaris et al. 2021, OBoW, arXiv:2012.11552)."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.bags import bag_cross_entropy
from jaxrep.objectives.base import Metrics, Reads, Term
from jaxrep.spec import Positive

Levels = Annotated[tuple[str, ...], Reads(outputs=("bag/{}", "weights/{}"))]
Crops = Annotated[tuple[str, ...], Reads(outputs=("{}",), embedding=True)]


@dataclass(frozen=True)
class BagPrediction(Term):
    """Predict the bags of all levels from crops: the sum over kinds of crops of the mean over levels.

    The metrics are perplexities, the number of words in use: of the bag of a picture, and of the mean bag of the batch.
    """

    levels: Levels
    """Names of the levels: ``bag/<level>`` [B,K] are the bags, and ``weights/<level>`` [K,D] predict them."""
    crops: Crops = ("crops",)
    """Names of the features of each kind of crops, [B,V,D] or [B,D]."""
    _: KW_ONLY
    scale: Positive = 8.0
    """Factor of the logits."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        loss, metrics = jnp.float32(0), {}
        for level in self.levels:
            bags, weights = outputs[f"bag/{level}"], outputs[f"weights/{level}"]
            for name in self.crops:
                x = outputs[name].reshape(len(bags), -1, weights.shape[1])
                loss += jnp.mean(bag_cross_entropy(x, weights, bags, self.scale)) / len(self.levels)
            metrics[f"words/picture/{level}"] = jnp.mean(perplexity(bags))
            metrics[f"words/batch/{level}"] = perplexity(jnp.mean(bags, axis=0))
        return loss, metrics


def perplexity(p: Array) -> Array:
    """Return exp of the entropy of probabilities along the last axis."""
    return jnp.exp(jnp.sum(jax.scipy.special.entr(p), axis=-1))
