"""A dual encoder with one tower that also learns from its moving average, which sees more of an image.

Naeem et al. 2023, SILC, arXiv:2310.13355; Silva et al. 2024, RS-M-CLIP, arXiv:2410.23370.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxrep.batch import Batch, Field, Outputs, StepContext, fold, unfold
from jaxrep.encoders.base import EncoderInputs
from jaxrep.methods.base import SELF, Method
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder, encode_towers, scales_and_bias
from jaxrep.methods.self_supervised.prototype_head import PrototypeHead
from jaxrep.methods.state import Ema
from jaxrep.spec import spec


@spec
class DistilledDualEncoder(Method):
    """Encode as DualEncoder, with a teacher of one tower.

    The field ``of`` holds global views [B,G,...], and ``local`` holds local views. Emits the outputs of DualEncoder,
    among them ``<of>`` [B,G,D] and ``<local>`` [B,V,D]. With local views it emits per row ``student`` and ``teacher``
    [B,G,E] and ``student/local`` [B,V,E]. Emits per step ``prototypes`` and ``teacher/prototypes`` [K,E].
    """

    dual: DualEncoder
    """The dual encoder; its ``shared_towers`` maps the field of local views to the tower ``of``."""
    of: str = "image"
    """The distilled tower, and its field of global views."""
    local: str = "local"
    """The field of the local views."""
    head: PrototypeHead = PrototypeHead()
    """The head between the tower's features and the prototypes."""
    teacher: Ema = Ema(of=("image", "head"))
    """The teacher: the average of the tower and of the head."""

    def problems(self) -> Iterator[str]:
        if self.of not in self.dual.towers or self.dual.shared_towers.get(self.local) != self.of:
            yield f"the tower '{self.of}' reads local views: dual.shared_towers needs '{self.local}': '{self.of}'"
        if set(self.teacher.of) != {self.of, "head"}:
            yield f"teacher.of is {self.of} and head, got {', '.join(self.teacher.of)}"
        if self.head.norm == "batch":
            yield "head.norm = 'batch' would be over the crops of one view or microbatch: set norm = 'none'"
        for name in {"head", "teacher"} & self.dual.towers.keys():
            yield f"dual.towers has a tower '{name}', which is the name of another part: rename it"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        head = (self.head, self.dual.towers[self.of].features)
        return {**self.dual.parts(inputs), "head": head, "teacher": (self.teacher, SELF)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        dual, of, local = self.spec.dual, self.spec.of, self.spec.local
        out = encode_towers(self, dual, batch, ctx)
        if local not in batch:
            return out
        views, count = fold(batch[of], dual.towers[of].rank)
        teacher = self.teacher.head(getattr(self.teacher, of)(EncoderInputs(views)).pooled)
        student = {"student": self.head(out[f"{of}/pooled"]), "student/local": self.head(out[f"{local}/pooled"])}
        return {**out, **student, "teacher": unfold(teacher, count)}

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        prototypes = {"prototypes": self.head.table(), "teacher/prototypes": self.teacher.head.table()}
        return {**scales_and_bias(self, self.spec.dual), **prototypes}
