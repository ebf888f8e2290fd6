"""A teacher that never learns, and students that start near it."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Outputs, StepContext
from jaxrep.methods.base import name_errors, streams
from jaxrep.methods.state import Teacher, non_trainable_copy
from jaxrep.params import by_path
from jaxrep.spec import Share, spec


@spec
class RandomTeacher(Teacher):
    """Hold parts with initial values of their own that never change (Sarnthein et al. 2023, arXiv:2302.12091).

    The method's parts start as ((1 - alpha) teacher + alpha fresh) / sqrt(2 alpha^2 - 2 alpha + 1), which has the
    variance of fresh values (released code, ``init_student_teacher``). Unlike there, what starts as a constant, such as
    the gain of a norm, stays that constant. Its input in ``Method.parts`` is ``DRAWS``.
    """

    of: tuple[str, ...]
    """Names of the parts that are drawn again."""
    alpha: Share = 1.0
    """Share of fresh values in the student's start. At 1 it is independent of the teacher, at 0 equal to it."""

    def build(self, rngs: nnx.Rngs, *, inputs: Mapping[str, tuple[Any, Any]]) -> nnx.Module:
        if missing := [name for name in self.of if inputs.get(name, (None,))[0] is None]:
            raise ValueError(f"the method has no part '{missing[0]}' to draw again")
        return _RandomTeacher(self.of, rngs.params(), inputs)

    def start(self, built: nnx.Module, method: nnx.Module) -> None:
        deviation = math.sqrt(2 * self.alpha**2 - 2 * self.alpha + 1)
        for name in self.of:
            teacher, student = (nnx.state(getattr(owner, name)) for owner in (built, method))
            for path, variable in by_path(student).items():
                theirs, fresh = by_path(teacher)[path][...], variable[...]
                mixed = ((1 - self.alpha) * theirs + self.alpha * fresh) / deviation
                # Two draws are equal only where nothing is drawn.
                variable.set_value(jnp.where(theirs == fresh, fresh, mixed.astype(fresh.dtype)))
            nnx.update(getattr(method, name), student)


class _RandomTeacher(nnx.Module):
    """Hold parts whose variables are all ``NonTrainable``."""

    def __init__(self, of: tuple[str, ...], key: Array, parts: Mapping[str, tuple[Any, Any]]):
        for name in of:
            part, part_inputs = parts[name]
            with name_errors(name):
                setattr(self, name, non_trainable_copy(part.build(streams(key, name), inputs=part_inputs)))

    def update(
        self, method: nnx.Module, outputs: Outputs, batch: Mapping[str, Any], ctx: StepContext
    ) -> dict[str, Array]:
        """Return nothing: the teacher keeps the values of its start."""
        return {}
