"""Values of config.json and similar files, checked one by one."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.encoders.layers import Activation
from jaxrep.errors import UsageError

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}
"""Activations that jaxrep names differently."""

SIZES = dict(hidden_size="width", intermediate_size="hidden", num_hidden_layers="depth", num_attention_heads="heads")
"""Fields of a transformer's spec, by the usual names of transformers."""

BASE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
"""Size of a base model, which config.json may leave out."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Hold the values of one JSON object; a method that returns a value raises UsageError if it is invalid."""

    values: Mapping[str, Any]
    file: Path

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Config":
        """Return the values, with defaults for missing ones."""
        return Config({**defaults, **self.values}, self.file)

    def with_names(self, names: Mapping[str, str]) -> "Config":
        """Return the values, with those of other names (new name -> name in the file) under new names too."""
        return Config({**self.values, **{n: self.values[o] for n, o in names.items() if o in self.values}}, self.file)

    def part(self, name: str, defaults: Mapping[str, Any]) -> "Config":
        """Return a nested object, such as ``vision_config``, with defaults for missing values."""
        nested = self.values.get(name) or {}
        if not isinstance(nested, dict):
            raise UsageError(f"{self.file}: '{name}' should be an object, and is {nested!r}")
        return Config({**defaults, **nested}, self.file)

    def whole(self, name: str) -> int:
        """Return a positive integer of at most 32 bits."""
        valid = lambda value: type(value) is int and 0 < value < 2**31  # noqa: E731
        return self._checked(name, valid, "a positive whole number below 2**31")

    def side(self, name: str) -> int:
        """Return the side in pixels of a square, given as a number or as two equal ones."""
        match self.values.get(name):
            case [side, other] if side == other:
                return Config({name: side}, self.file).whole(name)
        return self.whole(name)

    def number(self, name: str) -> float:
        """Return a finite number of at least 0."""
        valid = lambda value: type(value) in (int, float) and 0 <= value < math.inf  # noqa: E731
        return float(self._checked(name, valid, "a number, 0 or more"))

    def flag(self, name: str) -> bool:
        """Return true or false."""
        return self._checked(name, lambda value: isinstance(value, bool), "true or false")

    def choice(self, name: str, choices: Iterable[str]) -> Any:
        """Return one of the strings ``choices``."""
        choices = tuple(choices)
        return self._checked(name, lambda value: value in choices, f"one of {', '.join(choices)}")

    def pixel_norm(self, mean: str = "mean", std: str = "std") -> PixelNorm:
        """Return the normalization of pixels, from lists of one number per color channel."""
        numbers = lambda value: all(isinstance(x, int | float) for x in value)  # noqa: E731
        valid = lambda value: isinstance(value, list) and len(value) == 3 and numbers(value)  # noqa: E731
        values = [tuple(map(float, self._checked(name, valid, "three numbers"))) for name in (mean, std)]
        return PixelNorm(mean=values[0], std=values[1])

    def activation(self, name: str = "hidden_act") -> Any:
        """Return jaxrep's name of an activation."""
        value = self.values.get(name)
        return Config({name: ACTIVATIONS.get(str(value), value)}, self.file).choice(name, get_args(Activation))

    def size(self) -> dict[str, Any]:
        """Return the size fields of a transformer's spec."""
        size: dict[str, Any] = {field: self.whole(name) for name, field in SIZES.items()}
        size["mlp_ratio"] = size.pop("hidden") / size["width"]
        return {**size, "activation": self.activation(), "norm_epsilon": self.number("layer_norm_eps")}

    def expect(self, **values: Any) -> None:
        """Check values that jaxrep supports in one way only; missing ones are right."""
        for name, value in values.items():
            if (stated := self.values.get(name, value)) != value:
                raise UsageError(f"{self.file}: '{name}' is {stated!r}, and only models with {value!r} can be read")

    def _checked(self, name: str, valid: Callable[[Any], bool], expected: str) -> Any:
        value = self.values.get(name)
        if not valid(value):
            raise UsageError(f"{self.file}: '{name}' should be {expected}, and is {value!r}")
        return value
