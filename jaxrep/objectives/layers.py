"""Terms on the features of inner layers (Li et al. 2024, 2D Matryoshka Sentence Embeddings, arXiv:2402.14776)."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

import jax

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.distillation import softmax_divergence
from jaxrep.objectives.base import Metrics, Reads, Term, Wrapper
from jaxrep.spec import Positive


def sampled_layer(ctx: StepContext, depth: int) -> Array:
    """Draw the layer of this step, int32 from 0 to depth - 2: any but the last, the same one for every term."""
    if depth < 2:
        raise ValueError("a layer before the last is sampled, and the encoder has one layer only: give it more")
    return jax.random.randint(ctx.key("sampled layer"), (), 0, depth - 1)


@dataclass(frozen=True)
class SampledLayer(Wrapper):
    """Compute a term on the features of a random inner layer, drawn each step, in place of those of the last layer.

    For every embedding x of the term it reads ``<x>/layers`` [B,depth,D].
    """

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(_layers(name) if name in self.term.embeddings else name for name in self.term.reads)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return tuple(map(_layers, self.term.embeddings))

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        layers = {name: outputs[_layers(name)] for name in self.term.embeddings}
        sampled = {name: x[:, sampled_layer(ctx, x.shape[1])] for name, x in layers.items()}
        return self.term({**outputs, **sampled}, batch, ctx)


@dataclass(frozen=True)
class LayerAlignment(Term):
    """Make the sampled layer's features, as logits over their dimensions, follow those of the last layer (section 3.3).

    The last layer has a gradient too, as in the released code.
    """

    x: Annotated[str, Reads(outputs=("{}", "{}/layers"))]
    """Name of the last layer's features [B,D]; those of all layers are ``<x>/layers`` [B,depth,D]."""
    _: KW_ONLY
    temperature: Positive = 1.0
    """Divisor of the features."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        layers = outputs[_layers(self.x)]
        layer = sampled_layer(ctx, layers.shape[1])
        return softmax_divergence(layers[:, layer], outputs[self.x], self.temperature), {"layer": layer}


def _layers(name: str) -> str:
    """Return the name of the output with the features of all layers."""
    return f"{name}/layers"
