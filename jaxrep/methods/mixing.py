"""Mixing: one encoder whose rows are mixed in pairs, as inputs, as features or as embeddings (Venkataramanan et al.
2022, Metrix, arXiv:2106.04990)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, normalize, require_fields
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.layers import normal
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_and_project
from jaxrep.methods.heads import Head, Linear
from jaxrep.spec import Part, spec
from jaxrep.views.mixup import mix_rows, pairing


@spec
class Proxies(Part):
    """A learned vector a class (Movshovitz-Attias et al. 2017, arXiv:1703.07464)."""

    classes: int
    """Number of classes K; 0: there are none."""

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return ProxyTable(rngs, self.classes, inputs)


class ProxyTable(nnx.Module):
    """[K,D]."""

    def __init__(self, rngs: nnx.Rngs, classes: int, width: int):
        self.table = normal(rngs, (classes, width), (2 / classes) ** 0.5)

    def __call__(self) -> Array:
        return self.table[...]


@spec
class MixupEncoder(Method):
    """Embeds pictures, and mixtures of two of them.

    Emits ``image`` [B,D] (raw) and, with ``level``, ``mixed`` [B,D], ``mixed/partner`` and ``mixed/share`` [B]; shared,
    ``proxies`` [K,D] where there are any.
    """

    image: Encoder
    """The encoder."""
    head: Head = Linear(features=512, bias=True)
    """The projection to the embedding."""
    level: Literal["none", "input", "feature", "embedding"] = "none"
    """What is mixed: the pictures (by the view ``MixUpWithin``), the encoder's pooled features before the projection, or
    the unit embeddings. A linear projection of mixed features is the mixture of embeddings of any length."""
    beta: float = 2.0
    """Shares are drawn from Beta(beta, beta), for features and embeddings."""
    proxies: int = 0
    """Number of classes that have a proxy."""

    rank: ClassVar[int]  # of the built method: the axes of a batch of pictures,
    image_head: ClassVar[Callable[[Array], Array]]  # the projection,
    proxy_table: ClassVar[Callable[[], Array]]  # and the proxies

    def problems(self) -> Iterator[str]:
        if self.beta <= 0:
            yield f"beta is the parameter of a Beta distribution: above 0, got {self.beta}"
        if self.proxies < 0:
            yield f"proxies counts classes: 0 or more, got {self.proxies}"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "MixupEncoder", "image")
        if self.level == "input":
            require_fields(inputs, "Mixing of inputs, as the view MixUpWithin makes it,", "mixed")
        width = self.head.width(self.image.features)
        parts = {"image": (self.image, inputs["image"]), "image_head": (self.head, self.image.features)}
        return {**parts, "proxy_table": (Proxies(classes=self.proxies), width)} if self.proxies else parts

    def static(self) -> dict[str, Any]:
        return {"rank": self.image.rank, "level": self.level, "beta": self.beta}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        out = encode_and_project(self, "image", self.rank, batch, ctx)
        if self.level == "input" and "mixed" in batch:
            out["mixed"] = encode_and_project(self, "mixed", self.rank, batch, ctx, tower="image")["mixed"]
        return out

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        if self.level == "none":
            return {}
        if self.level == "input":
            return {name: batch[name] for name in ("mixed/partner", "mixed/share")}
        partner, share = pairing(ctx, len(outputs["image"]), self.beta)
        x = outputs["image/pooled"] if self.level == "feature" else normalize(outputs["image"])
        mixed = mix_rows(x, x, partner, share)
        mixed = self.image_head(mixed) if self.level == "feature" else mixed
        return {"mixed": mixed, "mixed/partner": partner, "mixed/share": share}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return {"proxies": self.proxy_table()} if hasattr(self, "proxy_table") else {}
