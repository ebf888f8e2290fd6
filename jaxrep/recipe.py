"""Recipe: the whole declaration of a training run, as frozen data.

Fields of two kinds: *identity* says what is computed (data, views, method, objective, optimizer, schedule, length,
seed, init, evals); *execution* says how (mesh, microbatches, workers, cadences). A run resumes under another
execution, never under another identity.
"""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import tyro

from jaxrep.data.class_texts import Table
from jaxrep.data.orders.base import Order, Shuffle
from jaxrep.data.source import Source
from jaxrep.data.tokenizers.base import Bytes, Tokenizer
from jaxrep.evals.base import Eval, name_conflicts
from jaxrep.mesh import Mesh
from jaxrep.methods.base import Method
from jaxrep.objectives.base import Term
from jaxrep.optim.ema import NoEma, ParameterAverage
from jaxrep.optim.optimizers import Optimizer
from jaxrep.schedules import Schedule
from jaxrep.spec import execution, replace, spec
from jaxrep.views.base import View

__all__ = ["Checkpointing", "Data", "From", "Logging", "Pretrained", "Profile", "Recipe"]


@spec
class Data:
    """What is learned from, and how it becomes batches."""

    train: Source
    """The examples."""
    batch_size: int
    """Examples in a global batch."""
    tokenizer: Tokenizer = Bytes(length=64)
    """How texts become token ids."""
    texts: tuple[str, ...] = ("text",)
    """Fields of an example that are tokenized; other strings stay on the host."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """What a method reads once a step and not by example, as the texts of all classes, by name."""
    order: Order = Shuffle()
    """The order of the examples, a pure function of the seed and the position."""
    workers: int = execution(0)
    """Worker processes that decode; 0: threads of this process."""
    max_bad_fraction: float = execution(0.01)
    """Share of examples that may be unreadable (others stand in for them) before the run stops."""
    skip_failed_shards: bool = execution(False)
    """Whether a shard that cannot be read, also after a while, is left out; else the run stops."""

    def problems(self) -> Iterator[str]:
        if self.batch_size < 1:
            yield f"batch_size counts examples: at least 1, got {self.batch_size}"
        elif (block := self.order.block(self.batch_size)) > 0 and self.batch_size % block:
            yield f"batch_size is {self.batch_size}, which cuts groups of {block}: take a multiple of it"
        if (tokens := max(self.order.tokens, default=0)) > self.tokenizer.length:
            yield f"order gives texts {tokens} tokens, and the tokenizer cuts them to {self.tokenizer.length}"
        if not 0 <= self.max_bad_fraction <= 1:
            yield f"max_bad_fraction is a share, from 0 to 1, got {self.max_bad_fraction}"
        if self.workers < 0:
            yield f"workers counts processes: 0 or more, got {self.workers}"


@spec
class Checkpointing:
    """When the state is saved, and what is kept."""

    every_steps: int = 1000
    """Steps between checkpoints; one is always written at the end."""
    keep: int = 2
    """Latest checkpoints that are kept."""
    best: str = ""
    """A metric of an evaluation, as retrieval/image_to_text/r1; the checkpoint with the highest is kept besides."""

    def problems(self) -> Iterator[str]:
        if self.every_steps < 1 or self.keep < 1:
            yield f"every_steps and keep are at least 1, got {self.every_steps} and {self.keep}"


@spec
class Logging:
    """What is reported while training."""

    every_steps: int = 50
    """Steps between two lines of metrics."""
    embedding_metrics: bool = True
    """Whether the geometry of each pair of embeddings is measured on logged steps."""
    tensorboard: bool = True
    """Whether TensorBoardWriter files are written."""
    wandb: str = ""
    """Project of Weights & Biases to report to (extra: wandb); empty: none."""
    hang_seconds: float = 1800.0
    """Seconds without the end of a step after which the stacks of all threads are printed; 0: never."""

    def problems(self) -> Iterator[str]:
        if self.every_steps < 1:
            yield f"every_steps is at least 1, got {self.every_steps}"
        if self.hang_seconds < 0:
            yield f"hang_seconds is 0 or more, got {self.hang_seconds}"


@spec
class Profile:
    """A trace of a few steps, for xprof and Perfetto, in ``profile/`` of the run."""

    steps: int = 0
    """Steps that are traced; 0: none."""
    after: int = 10
    """Steps of this process before the first one that is traced: the first compile and fill caches."""

    def problems(self) -> Iterator[str]:
        if self.steps < 0 or self.after < 1:
            yield f"steps is 0 or more and after at least 1, got {self.steps} and {self.after}"


@dataclass(frozen=True)
class From:
    """Where a part starts: a run's directory, or another recipe, which is trained first if it has no run."""

    source: Any
    """A run's directory, or a Recipe."""
    part: str = ""
    """Path of the part there; empty: the same path as here."""
    _: KW_ONLY
    weights: Literal["auto", "raw", "ema"] = "auto"
    """Which of the run's weights: the last ones, their average, or those that its evaluations used."""
    stretch_after: int = 0
    """Where texts are longer here: how many of their learned positions stay, while the others are stretched to the new
    length (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378, section 3.2: 20); 0: longer texts are refused."""


@dataclass(frozen=True)
class Pretrained:
    """A public checkpoint in which a part starts, resized where its grid of patches or its patches are of another size.

    The folder is looked at where a run starts. What it has not stays as it was initialized, and is told.
    """

    path: str
    """Its folder, as ``jaxrep.load`` reads it."""
    _: KW_ONLY
    part: str = ""
    """Path of the part there, as image or text/blocks; empty: the same path as here."""
    patches: Literal["pseudo_inverse", "bilinear"] = "pseudo_inverse"
    """How kernels of another patch size are resized: so that resized patches give the same tokens (Beyer et al. 2022,
    FlexiViT, arXiv:2212.08013, section 3.4), or as pictures are."""
    stretch_after: int = 0
    """Where texts are longer here: how many of their learned positions stay, while the others are stretched to the new
    length (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378, section 3.2: 20); 0: longer texts are refused."""


@spec
class Recipe:
    """The whole declaration of a training run."""

    data: Data
    """What is learned from."""
    views: tuple[View, ...] = ()
    """Augmentations on the device, in this order."""
    method: Method
    """What is computed from a batch."""
    objective: Mapping[str, Term]
    """What is minimized: a weighted sum of terms."""
    optimizer: Optimizer
    """How parameters follow the gradient, with its exceptions by path."""
    schedule: Schedule
    """The learning rate over training."""
    examples: int = 0
    """Length of training in examples; 0: it is given in epochs."""
    epochs: float = 0.0
    """Length of training in passes over the data; 0: it is given in examples."""
    seed: int = 0
    """Seed of initial values, draws and order."""
    init: tyro.conf.Fixed[Mapping[str, From | Pretrained]] = field(default_factory=dict)
    """Parts that do not start from fresh values, by path."""
    ema: ParameterAverage = NoEma()
    """Which average of the parameters is kept, and whether evaluations and export use it."""
    evals: tuple[Eval, ...] = ()
    """What is measured."""
    microbatch_size: int = execution(0)
    """Rows whose activations exist at a time, over all devices; 0: the whole batch."""
    mesh: Mesh = execution(Mesh())
    """How the devices are arranged."""
    checkpoint: Checkpointing = execution(Checkpointing())
    """When the state is saved."""
    log: Logging = execution(Logging())
    """What is reported."""
    profile: Profile = execution(Profile())
    """Which steps are traced."""
    max_skipped_steps: int = execution(20)
    """Steps in a row with a non-finite loss or gradient after which the run stops as diverged."""

    def replace(self, changes: Mapping[str, Any] | None = None, **fields: Any) -> "Recipe":
        """A copy with some fields changed; ``changes`` reaches inside by dotted path: {"method.dim": 64}.

        A length in examples takes the place of one in epochs, and the other way round.
        """
        changes = {**(changes or {}), **fields}
        if changes.get("examples"):
            changes.setdefault("epochs", 0.0)
        if changes.get("epochs"):
            changes.setdefault("examples", 0)
        return replace(self, changes)

    def total_steps(self, dataset_size: int) -> int:
        """Updates in the whole training."""
        examples = self.examples or round(self.epochs * dataset_size)
        return max(examples // self.data.batch_size, 1)

    def problems(self) -> Iterator[str]:
        if (self.examples > 0) == (self.epochs > 0) or self.examples < 0 or self.epochs < 0:
            yield f"the length is examples or epochs, one of them: got examples={self.examples}, epochs={self.epochs}"
        if 0 < self.examples < self.data.batch_size:
            yield f"examples={self.examples} is less than one batch of {self.data.batch_size}: no step would be made"
        if self.checkpoint.best and not self.evals:
            yield f"checkpoint.best is '{self.checkpoint.best}', and there are no evals that would measure it"
        yield from name_conflicts(self.evals)
        for path, origin in self.init.items():
            if origin.stretch_after < 0:
                yield f"init.{path}: stretch_after counts positions, 0 or more, got {origin.stretch_after}"
        if not self.objective:
            yield "objective has no term: nothing would be learned"
        if not 0 <= self.seed < 2**32:
            yield f"seed is a whole number from 0 to 2**32 - 1, got {self.seed}"
        if self.max_skipped_steps < 1:
            yield f"max_skipped_steps is at least 1, got {self.max_skipped_steps}"
        size, batch = self.microbatch_size, self.data.batch_size
        if size and (size < 0 or size > batch or batch % size):
            yield f"microbatch_size {size} does not divide the batch of {batch}: take a divisor, or 0 for none"


def presets(module: Any) -> dict[str, Recipe]:
    """The recipes that an experiment's module declares, by name."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Recipe)}
