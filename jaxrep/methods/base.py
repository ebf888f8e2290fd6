"""Method: what is computed from a batch, wired in plain Python.

A method is declared by its fields (specs) and by three functions in which ``self.<field>`` is the built part:

- ``rows(batch, context)``: outputs that lead with B, one microbatch at a time;
- ``join(outputs, batch, context)``: outputs that need the whole batch (batch statistics in a head, mixing, mining);
- ``shared(tables, context)``: once a step, outputs that do not lead with B (scale, prototypes, class texts).

Each returns a dictionary of arrays and mutates nothing; a part with running statistics puts their new values under the
reserved name ``statistics``: {part name: nnx.State}. The method never sees a loss.
"""

import contextlib
import functools
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext
from jaxrep.spec import spec

BATCH_STATS = "batch_stats"


@spec
class Method:
    """Abstract. A concrete method is final: parts are composed, bodies are not overridden."""

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        raise TypeError(f"{type(self).__name__} does not say what it computes for a row")

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        return {}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return {}

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        """Name of a part -> (its spec, what it reads). ``inputs``: the fields of a batch after the views.

        A part's spec has ``build(rngs, *, inputs)``. A state part (``jaxrep.methods.state``) reads ``SELF`` and comes
        last.
        """
        raise TypeError(f"{type(self).__name__} does not list its parts")

    def static(self) -> dict[str, Any]:
        """Plain values that the body reads besides the parts (hashable)."""
        return {}

    def build(self, rngs: nnx.Rngs, *, inputs: Mapping[str, Field]) -> nnx.Module:
        """The module: one attribute a part, and this class's own functions as methods.

        Each part draws its initial values from a key of its own name: adding one leaves the others as they were.
        """
        module = _module_class(type(self))()
        for name, value in self.static().items():
            setattr(module, name, value)
        key = rngs.params()
        for name, (part, reads) in self.parts(inputs).items():
            own = _streams(jax.random.fold_in(key, zlib.crc32(name.encode())))
            with name_errors(name):
                setattr(module, name, part.build(own, inputs=module if reads is SELF else reads))
        return module


@contextlib.contextmanager
def name_errors(part: str) -> Iterator[None]:
    """Puts the name of a part before what it says of wrong values."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error


def _streams(key: Array) -> nnx.Rngs:
    """Rngs that count their draws in NumPy: counts that are traced cost time by the square of the number of layers."""
    rngs = nnx.Rngs(key)
    count: Any = np.zeros((), np.uint32)
    rngs.default.count = nnx.RngCount(count, tag="default")
    return rngs


SELF = object()
"""What a state part reads: the method's module with the parts built so far."""


@functools.cache
def _module_class(cls: type[Method]) -> type[nnx.Module]:
    """An nnx.Module with the functions of ``cls``; made once a class, so that graph definitions compare equal."""
    body = {
        name: value
        for base in reversed(cls.__mro__)
        if issubclass(base, Method)
        for name, value in vars(base).items()
        if callable(value) and not name.startswith("__") and name not in ("build", "parts", "static", "problems")
    }
    return type(cls.__name__, (nnx.Module,), {"__doc__": cls.__doc__, **body})
