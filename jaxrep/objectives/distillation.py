"""Terms of self-distillation: a student's crops and masked patches follow a teacher.

Caron et al. 2020, SwAV, arXiv:2006.09882; Caron et al. 2021, DINO, arXiv:2104.14294; Oquab et al. 2023, DINOv2,
arXiv:2304.07193, section 4.
"""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.distillation import prototype_cross_entropy, sinkhorn
from jaxrep.losses.geometry import koleo_loss
from jaxrep.objectives.base import Columns, Metrics, Output, Reads, Term
from jaxrep.schedules import Ramp, Schedule
from jaxrep.spec import Positive, Range

Tables = Annotated[str, Reads(outputs=("{}", "teacher/{}"))]


@dataclass(frozen=True)
class PrototypeTerm(Term):
    """Declare a cross-entropy with a teacher over prototypes, whose targets are balanced or centered (abstract)."""

    _: KW_ONLY
    table: Tables = "prototypes"
    """Name of the student's prototypes [K,E]; the teacher's are ``teacher/<table>``."""
    student_temperature: Positive = 0.1
    """Divisor of the student's logits."""
    teacher_temperature: Schedule = Ramp(start=0.04, end=0.07)
    """Divisor of the teacher's logits."""
    iterations: Annotated[int, Range(0, 1_000)] = 3
    """Steps of Sinkhorn-Knopp, which balances the targets; 0: none."""
    center: Output = ""
    """Name of a center [K] that is subtracted from the teacher's logits (``TeacherCenter``); empty: none."""

    def problems(self) -> Iterator[str]:
        if self.center and self.iterations:
            yield f"Sinkhorn-Knopp makes center = '{self.center}' void: set iterations = 0, or center to an empty name"

    def losses(
        self,
        outputs: Outputs,
        student: Array,
        teacher: Array,
        ctx: StepContext,
        pairs: np.ndarray,
        *,
        present: Any = None,
        each: bool = False,
    ) -> Array:
        """Return the losses [R] of students [R,S,E] and teachers [R,T,E].

        ``present`` bool [R*T]: the balanced teachers. ``each``: the rows of each of the T are balanced by themselves.
        """
        table, teacher_table = outputs[self.table], outputs[f"teacher/{self.table}"]
        temperature, factors = self.teacher_temperature(ctx), 0.0

        def balance(rows: Array) -> Array:
            return sinkhorn(rows, teacher_table, temperature, present=present, iterations=self.iterations)

        if self.center:
            if outputs[self.center].shape != (len(table),):
                shape = outputs[self.center].shape
                raise ValueError(f"center '{self.center}' is {shape}, and '{self.table}' has {len(table)} prototypes")
            factors = -outputs[self.center] / temperature
        elif self.iterations and each:
            factors = jnp.stack([balance(teacher[:, t]) for t in range(teacher.shape[1])])
        elif self.iterations:
            factors = balance(teacher.reshape(-1, teacher.shape[-1]))
        temperatures = {"student_temperature": self.student_temperature, "teacher_temperature": temperature}
        return prototype_cross_entropy(student, table, teacher, teacher_table, factors, pairs=pairs, **temperatures)


@dataclass(frozen=True)
class Dino(PrototypeTerm):
    """Make the student's crops agree with the teacher's global crops; the mean over all pairs that meet.

    Of a self-distillation without teacher it is SwAV's swapped prediction, with ``each_crop``.
    """

    student: Output = "student"
    """Name of the student's global crops, [B,G,E]."""
    teacher: Output = "teacher"
    """Name of the teacher's, in the same order."""
    local: Output = "local"
    """Name of the student's local crops, [B,V,E]; empty: there are none."""
    _: KW_ONLY
    pairs: Literal["others", "all", "same"] = "others"
    """Which crops of the student meet one of the teacher: all but the same one, all, or the same one alone."""
    each_crop: bool = False
    """Whether Sinkhorn-Knopp balances the rows of each global crop by themselves (SwAV), or of all of them (DINOv2)."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.each_crop and not self.iterations:
            yield "each_crop is about Sinkhorn-Knopp: set iterations to 1 or more"
        if self.pairs == "same" and self.local:
            yield f"pairs = 'same' leaves out local crops, which no teacher reads: set local = '' (now '{self.local}')"

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        teacher = outputs[self.teacher]
        student = jnp.concatenate([outputs[name] for name in (self.student, self.local) if name], axis=1)
        pairs = self.meetings(student.shape[1], teacher.shape[1])
        return jnp.mean(self.losses(outputs, student, teacher, ctx, pairs, each=self.each_crop)), {}

    def meetings(self, students: int, teachers: int) -> np.ndarray:
        """Return the weights [S,T] of the pairs, of sum 1. Raises ValueError: no crop meets another."""
        pairs = np.eye(students, teachers) if self.pairs == "same" else np.ones((students, teachers))
        if self.pairs == "others":
            np.fill_diagonal(pairs, 0)
        if not pairs.any():
            raise ValueError("pairs = 'others', and there is one crop alone: take another crop, or pairs = 'same'")
        return pairs / pairs.sum()


@dataclass(frozen=True)
class Ibot(PrototypeTerm):
    """Make every masked patch of the student agree with the teacher's patch at the same place.

    The loss is the mean over the masked patches of a crop, and over crops, of which one without any counts 0.
    """

    student: Output = "student/patches"
    """Name of the student's patches at the masked places, [B,G,M,E]."""
    teacher: Output = "teacher/patches"
    """Name of the teacher's."""
    masked: Columns = ("a/masked_index", "b/masked_index")
    """Fields [B,M] of the masked places of each global crop; -1: none."""
    _: KW_ONLY
    table: Tables = "patch_prototypes"
    """Name of the student's prototypes [K,E]; the teacher's are ``teacher/<table>``."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        masked = jnp.stack([batch[name] for name in self.masked], axis=1) >= 0
        weights = masked / jnp.maximum(masked.sum(-1, keepdims=True), 1)
        student, teacher = (outputs[name].reshape(masked.size, 1, -1) for name in (self.student, self.teacher))
        losses = self.losses(outputs, student, teacher, ctx, np.ones((1, 1)), present=masked.reshape(-1))
        crops = masked.shape[0] * masked.shape[1]
        return jnp.sum(losses * weights.reshape(-1)) / crops, {"hidden": jnp.mean(masked.sum(-1).astype(jnp.float32))}


@dataclass(frozen=True)
class KoLeo(Term):
    """Spread each view's features over the sphere (``jaxrep.losses.koleo_loss``); the sum over views."""

    x: Output = "student/pooled"
    """Name of the features, [B,V,D]."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        views = jnp.moveaxis(outputs[self.x], 1, 0)
        return jnp.sum(jnp.stack([koleo_loss(view) for view in views])), {}
