"""DistilledDualEncoder: a dual encoder, one tower of which also learns from its own moving average, which sees more of a
picture (Naeem et al. 2023, SILC, arXiv:2310.13355; Silva et al. 2024, RS-M-CLIP, arXiv:2410.23370)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from jaxrep.batch import Batch, Field, Outputs, StepContext, fold, unfold
from jaxrep.methods.base import SELF, Method
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder, dual_encoder_outputs, dual_encoder_per_step
from jaxrep.methods.self_supervised.self_distillation import PrototypeHead
from jaxrep.methods.state import Ema
from jaxrep.spec import spec


@spec
class DistilledDualEncoder(Method):
    """A DualEncoder with a teacher of one of its towers: the field ``of`` holds global views [B,G,...], ``local`` local ones.

    Emits what the DualEncoder does, here ``<of>`` [B,G,D] and ``<local>`` [B,V,D], and a row, where there are local views,
    ``student`` and ``teacher`` [B,G,E] and ``student/local`` [B,V,E]; shared, ``prototypes`` and
    ``teacher/prototypes`` [K,E].
    """

    dual: DualEncoder
    """The dual encoder; its ``shared_towers`` gives the local views the tower of the global ones."""
    of: str = "image"
    """The tower that is distilled, and its field."""
    local: str = "local"
    """The field of the local views."""
    head: PrototypeHead = PrototypeHead()
    """What stands between the tower's features and prototypes."""
    teacher: Ema = Ema(of=("image", "head"))
    """The teacher: the average of the tower and of the head."""

    distilled: ClassVar[tuple[str, str, int]]  # of the built method: both fields, and the axes of the tower's input

    def problems(self) -> Iterator[str]:
        if self.of not in self.dual.towers or self.dual.shared_towers.get(self.local) != self.of:
            yield f"local views are read by the tower '{self.of}': dual.shared_towers has to give '{self.local}': '{self.of}'"
        if set(self.teacher.of) != {self.of, "head"}:
            yield f"teacher averages {self.of} and head, and not {', '.join(self.teacher.of)}"
        for name in {"head", "teacher"} & self.dual.towers.keys():
            yield f"dual.towers has a tower '{name}', which is the name of another part: give it another"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        head = (self.head, self.dual.towers[self.of].features)
        return {**self.dual.parts(inputs), "head": head, "teacher": (self.teacher, SELF)}

    def static(self) -> dict[str, Any]:
        return {**self.dual.static(), "distilled": (self.of, self.local, self.dual.towers[self.of].rank)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        out = dual_encoder_outputs(self, batch, ctx)
        of, local, rank = self.distilled
        if local not in batch:
            return out
        views, count = fold(batch[of], rank)
        teacher = self.teacher.head(getattr(self.teacher, of)(views).pooled)
        student = {"student": self.head(out[f"{of}/pooled"]), "student/local": self.head(out[f"{local}/pooled"])}
        return {**out, **student, "teacher": unfold(teacher, count)}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        prototypes = {"prototypes": self.head.table(), "teacher/prototypes": self.teacher.head.table()}
        return {**dual_encoder_per_step(self), **prototypes}
