"""The interface of methods: what is computed from a batch, written as plain Python.

A method is declared by its fields (specs) and by three functions, in which ``self.<part>`` is a built part and
``self.spec`` is the declaration:

- ``per_example(batch, ctx)``: outputs that lead with B, one microbatch at a time;
- ``across_batch(outputs, batch, ctx)``: outputs that need the whole batch (batch statistics in a head, mixing, mining);
- ``per_step(tables, ctx)``: outputs that do not lead with B (logit scale, prototypes, class texts), once per step.

Each returns a dictionary of arrays and mutates nothing. A part with running statistics returns their new values under
the reserved name ``batch_stats``: {part name: nnx.State}. The method does not know the loss.
"""

import abc
import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from flax import nnx

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext
from jaxrep.methods.state import StatePart
from jaxrep.spec import spec

BATCH_STATS = "batch_stats"

SELF = object()
"""The input of a state part: the method's module with the parts built so far."""
DRAWS = object()
"""The input of a part that draws other parts anew: the dictionary that ``Method.parts`` returns."""


@spec
class Method(abc.ABC):
    """Declare a method (abstract). A concrete method is final: parts are composed, functions are not overridden."""

    if TYPE_CHECKING:

        @property
        def spec(self) -> Self: ...

    @abc.abstractmethod
    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        """Return the outputs that lead with B."""

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        """Return the outputs that need the whole batch."""
        return {}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        """Return the outputs that do not lead with B."""
        return {}

    @abc.abstractmethod
    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        """Return {name of a part: (its spec, its input)}. ``inputs``: the fields of a batch after the views.

        A part's spec has ``build(rngs, *, inputs)``; where it is None, the module's attribute is None. The input of a
        state part (``jaxrep.methods.state``) is ``SELF``, or what it reads instead, and it comes last.
        """

    def build(self, rngs: nnx.Rngs, *, inputs: Mapping[str, Field]) -> nnx.Module:
        """Return the module: an attribute per part, ``spec``, and this class's functions as its methods.

        Each part draws its initial values from a key of its name, so another part does not change them.
        """
        module = _module_class(type(self))(self)
        key, parts = rngs.params(), self.parts(inputs)
        for name, (part, part_inputs) in parts.items():
            with name_errors(name):
                part_inputs = module if part_inputs is SELF else parts if part_inputs is DRAWS else part_inputs
                setattr(module, name, None if part is None else part.build(streams(key, name), inputs=part_inputs))
        for name, (part, _) in parts.items():
            if isinstance(part, StatePart):
                part.start(getattr(module, name), module)
        return module


@contextlib.contextmanager
def name_errors(part: str) -> Iterator[None]:
    """Put the name of a part before its errors about wrong values."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error


def streams(key: Array, name: str) -> nnx.Rngs:
    """Return the Rngs of a part. They count draws in NumPy: traced counts cost time quadratic in the layers."""
    rngs = nnx.Rngs(jax.random.fold_in(key, zlib.crc32(name.encode())))
    count: Any = np.zeros((), np.uint32)
    rngs.default.count = _Count(count, tag="default")
    return rngs


class _Count(nnx.RngCount):
    """Return copies: JAX may read a NumPy array after the call that got it, and so see the next count."""

    def get_value(self, **index: Any) -> Any:
        return np.array(super().get_value(**index))


@dataclasses.dataclass(frozen=True)
class _Declaration:
    """Make a spec hashable, as graph definitions have to be: its mappings are not."""

    spec: Method

    def __hash__(self) -> int:
        return hash(type(self.spec))


class _MethodModule(nnx.Module):
    """Hold the declaration of a method; its parts become attributes."""

    def __init__(self, spec: Method):
        self._declaration = _Declaration(spec)

    @property
    def spec(self) -> Method:
        return self._declaration.spec


@functools.cache
def _module_class(cls: type[Method]) -> type[_MethodModule]:
    """Return a module class with the functions of ``cls``; made once per class, so that graph definitions are equal."""
    body = {
        name: value
        for base in reversed(cls.__mro__)
        if issubclass(base, Method)
        for name, value in vars(base).items()
        if callable(value) and not name.startswith("__") and name not in ("build", "parts", "problems")
    }
    return type(cls.__name__, (_MethodModule,), {"__doc__": cls.__doc__, **body})
