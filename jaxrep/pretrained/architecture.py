"""What a folder says that its model is: the specs, the fields it reads, and the table of its tensors."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from jaxrep.batch import Field
from jaxrep.data.tokenizers.base import Tokenizer
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.encoders.layers import Activation
from jaxrep.errors import UsageError
from jaxrep.methods.base import Method
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Head, Identity, LogitBias, LogitScale, NoBias
from jaxrep.methods.single_encoder import SingleEncoder
from jaxrep.pretrained.image_transform import ImageTransform
from jaxrep.pretrained.mapping import Row, Table, under
from jaxrep.pretrained.tensors import Tensors

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}
"""The layout's names of activations that jaxrep calls otherwise."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model as its folder describes it."""

    model: Method
    fields: Mapping[str, Field]  # what it reads
    table: Table
    ignored: tuple[str, ...] = ()  # patterns of tensors that may be there and are not read
    transform: ImageTransform | None = None
    tokenizer: Tokenizer | None = None


@dataclasses.dataclass(frozen=True)
class Tower:
    """One encoder of an architecture. Its tables are those of the encoder and of the head alone, without prefixes."""

    encoder: Encoder
    field: Field
    table: Table
    head: Head = Identity()
    projection: Table = ()
    transform: ImageTransform | None = None
    tokenizer: Tokenizer | None = None


def single(name: str, tower: Tower, prefix: str = "", ignored: tuple[str, ...] = ()) -> Architecture:
    """One tower, which reads the field ``name``; ``prefix``: of the encoder's tensors."""
    return Architecture(
        model=SingleEncoder(name=name, encoder=tower.encoder, head=tower.head),
        fields={name: tower.field},
        table=(*under(tower.table, prefix, f"{name}/"), *under(tower.projection, "", f"{name}_head/")),
        ignored=ignored,
        transform=tower.transform,
        tokenizer=tower.tokenizer,
    )


def dual(
    source: "Source",
    image: Tower,
    text: Tower,
    prefixes: tuple[str, str],
    dim: int,
    scale: LogitScale,
    ignored: tuple[str, ...] = (),
) -> Architecture:
    """An image and a text tower, the scale, and where the checkpoint has one the bias, each of shape [] or [1]."""
    towers = {"image": (image, prefixes[0]), "text": (text, prefixes[1])}
    tables = [single(name, tower, prefix).table for name, (tower, prefix) in towers.items()]
    scalar = source.tensors.entries.get("logit_scale")
    axes = "1 ->" if scalar and scalar.shape == (1,) else ""
    return Architecture(
        model=DualEncoder(
            towers={"image": image.encoder, "text": text.encoder},
            dim=dim,
            heads={"image": image.head, "text": text.head},
            scale=scale,
            bias=LogitBias() if source.has("logit_bias") else NoBias(),
        ),
        fields={"image": image.field, "text": text.field},
        table=(*tables[0], *tables[1], Row("logit_scale", "scale/log", axes), Row("logit_bias", "bias/value", axes)),
        ignored=ignored,
        transform=image.transform,
        tokenizer=text.tokenizer,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A part of config.json: values by name, with the layout's defaults for those that are left out."""

    values: Mapping[str, Any]
    file: Path

    def part(self, name: str, defaults: Mapping[str, Any]) -> "Config":
        """A nested part, as ``vision_config``."""
        found = self.values.get(name) or {}
        if not isinstance(found, dict):
            raise UsageError(f"{self.file}: '{name}' should be an object, and is {found!r}")
        return Config({**defaults, **found}, self.file)

    def whole(self, name: str) -> int:
        """A positive whole number."""
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{self.file}: '{name}' should be a positive whole number, and is {value!r}")
        return value

    def side(self, name: str) -> int:
        """A side in pixels, of what is square."""
        value = self.values.get(name)
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            return Config({name: value[0]}, self.file).whole(name)
        return self.whole(name)

    def number(self, name: str) -> float:
        """A number, 0 or more."""
        value = self.values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
            raise UsageError(f"{self.file}: '{name}' should be a number, 0 or more, and is {value!r}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise UsageError(f"{self.file}: '{name}' should be true or false, and is {value!r}")
        return value

    def activation(self, name: str = "hidden_act") -> Any:
        value = ACTIVATIONS.get(str(self.values.get(name)), self.values.get(name))
        if value not in get_args(Activation):
            raise UsageError(f"{self.file}: '{name}' is {value!r}, and {', '.join(get_args(Activation))} are known")
        return value

    def size(self) -> dict[str, Any]:
        """Fields of a transformer's spec, by the layout's usual names."""
        width, hidden = self.whole("hidden_size"), self.whole("intermediate_size")
        return {
            "width": width,
            "depth": self.whole("num_hidden_layers"),
            "heads": self.whole("num_attention_heads"),
            "mlp_ratio": hidden / width,
            "activation": self.activation(),
            "norm_epsilon": self.number("layer_norm_eps"),
        }

    def expect(self, **values: Any) -> None:
        """That what jaxrep has one way of is that way. Raises UsageError."""
        for name, value in values.items():
            if (found := self.values.get(name, value)) != value:
                raise UsageError(f"{self.file}: '{name}' is {found!r}, and models with {value!r} alone can be read")


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder that is read."""

    folder: Path
    config: Config
    tensors: Tensors
    transform: ImageTransform | None  # as the folder states it

    def below(self, *prefixes: str) -> str:
        """The first of these prefixes that names of tensors begin with; empty: none."""
        names = self.tensors.entries
        return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), "")

    def has(self, name: str) -> bool:
        return name in self.tensors.entries

    def pictures(self, side: int, default: PixelNorm, shorter: int = 0) -> ImageTransform:
        """The folder's transform to squares of ``side`` pixels; what it does not state is the family's."""
        found = self.transform or ImageTransform(height=side, width=side, shorter=shorter, pixels=default)
        if (found.height, found.width) != (side, side):
            raise UsageError(
                f"{self.folder / 'preprocessor_config.json'} makes pictures of {found.height} x {found.width} pixels, "
                f"and {self.config.file} asks for {side} x {side}"
            )
        return found
