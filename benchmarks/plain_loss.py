"""The plain loss as a term, for ``benchmarks.memory``: the process that compiles a plan imports it from here."""

from dataclasses import dataclass

from jaxrep.batch import normalize
from jaxrep.losses.contrastive import plain_info_nce
from jaxrep.objectives import Contrastive


@dataclass(frozen=True)
class Plain(Contrastive):
    """Compute the whole matrix of logits."""

    def __call__(self, outputs, batch, ctx):
        return plain_info_nce(normalize(outputs[self.a]), normalize(outputs[self.b]), outputs[self.scale]), {}
