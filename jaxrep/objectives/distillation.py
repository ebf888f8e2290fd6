"""Terms of self-distillation: a student's crops and hidden patches follow a teacher (Oquab et al. 2023, DINOv2,
arXiv:2304.07193, section 4)."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp
import numpy as np

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.koleo import koleo_loss
from jaxrep.losses.prototypes import prototype_cross_entropy, sinkhorn
from jaxrep.objectives.base import Metrics, Term, nonempty
from jaxrep.schedules import Ramp, Schedule


@dataclass(frozen=True)
class Prototypes(Term):
    """Abstract: cross-entropy of a student with a teacher over prototypes, balanced by Sinkhorn-Knopp over the whole
    batch."""

    _: KW_ONLY
    table: str = "prototypes"
    """Name of the student's prototypes [K,E]; the teacher's are ``teacher/<table>``."""
    student_temperature: float = 0.1
    """What the student's logits are divided by."""
    teacher_temperature: Schedule = Ramp(start=0.04, end=0.07)
    """What the teacher's logits are divided by."""
    iterations: int = 3
    """Steps of Sinkhorn-Knopp; 0: the teacher's plain softmax."""

    def problems(self) -> Iterator[str]:
        if self.student_temperature <= 0:
            yield f"student_temperature is above 0, and not {self.student_temperature}"
        if self.iterations < 0:
            yield f"iterations counts steps, 0 or more, and is not {self.iterations}"

    @property
    def tables(self) -> tuple[str, str]:
        return (self.table, f"teacher/{self.table}")

    def losses(
        self,
        outputs: Outputs,
        student: Array,
        teacher: Array,
        pairs: np.ndarray,
        present: Array | None,
        ctx: StepContext,
    ) -> Array:
        """[R] of students [R,S,E] and teachers [R,T,E]; ``present`` bool [R*T]: teachers that are balanced."""
        table, theirs = (outputs[name] for name in self.tables)
        temperature = self.teacher_temperature(ctx)
        rows = teacher.reshape(-1, teacher.shape[-1])
        steps = self.iterations
        factors = sinkhorn(rows, theirs, temperature, present=present, iterations=steps) if steps else 0.0
        how = {"student_temperature": self.student_temperature, "teacher_temperature": temperature}
        return prototype_cross_entropy(student, table, teacher, theirs, factors, pairs=pairs, **how)


@dataclass(frozen=True)
class Dino(Prototypes):
    """Every crop of the student agrees with the teacher's other global crops; the mean over all such pairs."""

    student: str = "student"
    """Name of the student's global crops, [B,G,E]."""
    teacher: str = "teacher"
    """Name of the teacher's, in the same order."""
    local: str = "local"
    """Name of the student's local crops, [B,V,E]; empty: there are none."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.student, self.teacher, *nonempty(self.local), *self.tables)

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        teacher = outputs[self.teacher]
        student = jnp.concatenate([outputs[name] for name in (self.student, *nonempty(self.local))], axis=1)
        pairs = np.ones((student.shape[1], teacher.shape[1]))
        np.fill_diagonal(pairs, 0)
        return jnp.mean(self.losses(outputs, student, teacher, pairs / pairs.sum(), None, ctx)), {}


@dataclass(frozen=True)
class Ibot(Prototypes):
    """Every hidden patch of the student looks as the teacher sees it; the mean over the hidden patches of a crop, and
    over crops, of which one without any counts 0."""

    student: str = "student/patches"
    """Name of the student's patches at the hidden places, [B,G,M,E]."""
    teacher: str = "teacher/patches"
    """Name of the teacher's."""
    hidden: tuple[str, ...] = ("a/masked_index", "b/masked_index")
    """Fields [B,M] of the hidden places of each global crop; -1: there is none."""
    _: KW_ONLY
    table: str = "patch_prototypes"
    """Name of the student's prototypes [K,E]; the teacher's are ``teacher/<table>``."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.student, self.teacher, *self.tables)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.hidden

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        here = jnp.stack([batch[name] for name in self.hidden], axis=1) >= 0
        weights = here / jnp.maximum(here.sum(-1, keepdims=True), 1)
        student, teacher = (outputs[name].reshape(here.size, 1, -1) for name in (self.student, self.teacher))
        losses = self.losses(outputs, student, teacher, np.ones((1, 1)), here.reshape(-1), ctx)
        crops = here.shape[0] * here.shape[1]
        return jnp.sum(losses * weights.reshape(-1)) / crops, {"hidden": jnp.mean(here.sum(-1).astype(jnp.float32))}


@dataclass(frozen=True)
class KoLeo(Term):
    """Each view's features keep their distance (``jaxrep.losses.koleo.koleo``); the sum over views."""

    x: str = "student/pooled"
    """Name of the features, [B,V,D]."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x,)

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        views = jnp.moveaxis(outputs[self.x], 1, 0)
        return jnp.sum(jnp.stack([koleo_loss(view) for view in views])), {}
