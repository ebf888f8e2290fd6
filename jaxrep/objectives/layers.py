"""Terms on the features of inner layers (Li et al. 2024, 2D Matryoshka Sentence Embeddings, arXiv:2402.14776)."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import jax

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.distillation import softmax_divergence
from jaxrep.objectives.base import Metrics, Term, Wrapper


def sampled_layer(ctx: StepContext, depth: int) -> Array:
    """The layer of this step, int32 from 0 to depth - 2: any but the last. Every term draws the same one."""
    if depth < 2:
        raise ValueError("a layer before the last is sampled, and the encoder has one layer only: give it more")
    return jax.random.randint(ctx.key("sampled layer"), (), 0, depth - 1)


@dataclass(frozen=True)
class SampledLayer(Wrapper):
    """A term on the features of an inner layer, drawn anew each step, in place of those of the last one.

    Of every embedding x of the term it reads ``<x>/layers`` [B,depth,D].
    """

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(layers(name) if name in self.term.embeddings else name for name in self.term.reads)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return tuple(map(layers, self.term.embeddings))

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        every = {name: outputs[layers(name)] for name in self.term.embeddings}
        at = {name: x[:, sampled_layer(ctx, x.shape[1])] for name, x in every.items()}
        return self.term({**outputs, **at}, batch, ctx)


@dataclass(frozen=True)
class LayerAlignment(Term):
    """The sampled layer's features, as logits over their own dimensions, follow those of the last layer (section 3.3).

    The last layer is moved as well, as in the released code.
    """

    x: str
    """Name of the last layer's features [B,D]; those of all layers are ``<x>/layers`` [B,depth,D]."""
    _: KW_ONLY
    temperature: float = 1.0
    """What the features are divided by."""

    def problems(self) -> Iterator[str]:
        if self.temperature <= 0:
            yield f"temperature is above 0, and not {self.temperature}"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x, layers(self.x))

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        every = outputs[layers(self.x)]
        layer = sampled_layer(ctx, every.shape[1])
        return softmax_divergence(every[:, layer], outputs[self.x], self.temperature), {"layer": layer}


def layers(name: str) -> str:
    """The output that holds the features of all layers."""
    return f"{name}/layers"
