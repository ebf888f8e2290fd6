"""Declare a training run as frozen data: a Recipe.

Fields are of two kinds. *Identity* says what is computed: data, views, method, objective, optimizer, schedule, length,
seed, init, evals. *Execution* says how: mesh, microbatches, workers, intervals. A run may resume with other execution
fields, never with another identity.
"""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Literal

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
from jaxrep.spec import Count, Natural, NonNegative, Range, Share, execution, replace, spec
from jaxrep.views.base import View

__all__ = ["Checkpointing", "Data", "From", "Logging", "Pretrained", "Profile", "Recipe"]


@spec
class Data:
    """Declare the training data and how it becomes batches."""

    train: Source
    """Training examples."""
    batch_size: Count
    """Examples per global batch."""
    tokenizer: Tokenizer = Bytes(length=64)
    """Tokenizer of the texts."""
    texts: tuple[str, ...] = ("text",)
    """Fields of an example that are tokenized; other strings stay on the host."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Arrays that a method reads once per step, such as the texts of all classes, by name."""
    order: Order = Shuffle()
    """Order of the examples, a pure function of the seed and the position."""
    workers: Natural = execution(0)
    """Worker processes that decode; 0: threads of this process."""
    threads: Natural = execution(0)
    """Threads of each process that decodes; 0: one per usable core, divided by the workers, at most 16."""
    max_bad_fraction: Share = execution(0.01)
    """Fraction of examples that may be unreadable (others replace them) before the run stops."""
    skip_failed_shards: bool = execution(False)
    """Whether a shard that stays unreadable is skipped; otherwise the run stops."""
    allow_changed: bool = execution(False)
    """Whether a run may go on with data that changed since its checkpoint; otherwise it is refused."""

    def problems(self) -> Iterator[str]:
        yield from self.order.batch_problems(self.batch_size)
        if (tokens := max(self.order.text_lengths, default=0)) > self.tokenizer.length:
            yield f"order gives texts {tokens} tokens, and the tokenizer cuts them to {self.tokenizer.length}"


@spec
class Checkpointing:
    """Declare when the state is saved, and which checkpoints are kept."""

    every_steps: Count = 1000
    """Steps between checkpoints; the last step always has one."""
    every_minutes: NonNegative = 0.0
    """Minutes after which a checkpoint is saved, if none was meanwhile; 0: only steps count. Several processes look at
    the clock on logged steps.
    """
    keep: Count = 2
    """Number of latest checkpoints to keep."""
    best: str = ""
    """Metric of an evaluation, such as retrieval/image_to_text/r1; the checkpoint with the highest is kept too."""


@spec
class Logging:
    """Declare what is logged during training."""

    every_steps: Count = 50
    """Steps between logged metrics."""
    embedding_metrics: bool = True
    """Whether alignment, uniformity and other measures of embeddings are computed on logged steps."""
    tensorboard: bool = True
    """Whether TensorBoard files are written."""
    wandb: str = ""
    """Project in Weights & Biases to log to (extra: wandb); empty: none."""
    hang_seconds: NonNegative = 1800.0
    """Seconds without a finished step after which the stacks of all threads are printed; 0: never."""


@spec
class Profile:
    """Trace a few steps for xprof and Perfetto, in ``profile/`` of the run."""

    steps: Natural = 0
    """Number of steps to trace; 0: none."""
    after: Count = 10
    """Steps of this process before the first traced step: the first ones compile and fill caches."""


@dataclass(frozen=True)
class From:
    """Start a part from a run, or from another recipe, which is trained first if it has no finished run.

    Learned positions of images and patch kernels of another size are resized, and positions of shorter texts cut.
    """

    source: Any
    """Run directory or URL, or a Recipe."""
    part: str = ""
    """Path of the part in the source; empty: the same path."""
    _: KW_ONLY
    weights: Literal["auto", "raw", "ema"] = "auto"
    """Weights of the source: the last ones, their average, or those that its evaluations used."""
    stretch_after: Natural = 0
    """Number of learned positions that stay if texts are longer here; the others are stretched to the new length
    (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378, section 3.2: 20). 0: longer texts are refused.
    """


@dataclass(frozen=True)
class Pretrained:
    """Start a part from a public checkpoint; patch kernels and positions of another size are resized.

    The folder is read when a run starts. Arrays that it lacks stay as they were initialized; the log lists them.
    """

    path: str
    """Folder of the checkpoint, or its address on a hub (``hf://ORG/NAME@REVISION``), as ``jaxrep.load`` reads it."""
    _: KW_ONLY
    part: str = ""
    """Path of the part in the checkpoint, such as image or text/blocks; empty: the same path."""
    patches: Literal["pseudo_inverse", "bilinear"] = "pseudo_inverse"
    """How patch kernels of another size are resized: so that resized patches give the same tokens (Beyer et al.
    2022, FlexiViT, arXiv:2212.08013, section 3.4), or bilinearly.
    """
    stretch_after: Natural = 0
    """Number of learned positions that stay if texts are longer here; the others are stretched to the new length
    (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378, section 3.2: 20). 0: longer texts are refused.
    """


@spec
class Recipe:
    """Declare a training run."""

    data: Data
    """Training data."""
    views: tuple[View, ...] = ()
    """Augmentations on the device, in this order."""
    method: Method
    """What is computed from a batch: encoders, heads and their wiring."""
    objective: Mapping[str, Term]
    """Terms of the loss; the objective is their weighted sum."""
    optimizer: Optimizer
    """Optimizer, with its exceptions by path."""
    schedule: Schedule
    """Learning rate over training."""
    examples: Natural = 0
    """Length of training in examples; 0: see epochs."""
    epochs: NonNegative = 0.0
    """Length of training in passes over the data; 0: see examples."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of initial values, random keys and order."""
    init: tyro.conf.Fixed[Mapping[str, From | Pretrained]] = field(default_factory=dict)
    """Parts that start from a run or a checkpoint, by path."""
    ema: ParameterAverage = NoEma()
    """Average of the parameters, and whether evaluations and export use it."""
    evals: tuple[Eval, ...] = ()
    """Evaluations during and after training."""
    microbatch_size: Natural = execution(0)
    """Rows whose activations exist at a time, over all devices; 0: the whole batch."""
    mesh: Mesh = execution(Mesh())
    """Arrangement of the devices."""
    checkpoint: Checkpointing = execution(Checkpointing())
    """When the state is saved."""
    log: Logging = execution(Logging())
    """What is logged."""
    profile: Profile = execution(Profile())
    """Which steps are traced."""
    max_skipped_steps: Count = execution(20)
    """Consecutive steps with a non-finite loss or gradient after which the run stops as diverged."""

    def replace(self, changes: Mapping[str, Any] | None = None, **fields: Any) -> "Recipe":
        """Return a copy with some fields changed; ``changes`` takes dotted paths: ``{"method.dim": 64}``.

        A length in examples replaces one in epochs, and the other way round.
        """
        changes = {**(changes or {}), **fields}
        if changes.get("examples"):
            changes.setdefault("epochs", 0.0)
        if changes.get("epochs"):
            changes.setdefault("examples", 0)
        return replace(self, changes)

    def total_steps(self, dataset_size: int) -> int:
        """Return the number of updates of the whole training."""
        examples = self.examples or round(self.epochs * dataset_size)
        return max(examples // self.data.batch_size, 1)

    def problems(self) -> Iterator[str]:
        if (self.examples > 0) == (self.epochs > 0):
            yield f"the length is examples or epochs, one of them: got examples={self.examples}, epochs={self.epochs}"
        if 0 < self.examples < self.data.batch_size:
            yield f"examples={self.examples} is less than one batch of {self.data.batch_size}: no step would be made"
        if self.checkpoint.best and not self.evals:
            yield f"checkpoint.best is '{self.checkpoint.best}', and there are no evals that would measure it"
        yield from name_conflicts(self.evals)
        if not self.objective:
            yield "objective has no term: nothing would be learned"
        for name, term in self.objective.items():
            yield from (f"objective.{name}: {sentence}" for sentence in term.method_problems(self.method))
        size, batch = self.microbatch_size, self.data.batch_size
        if size and (size > batch or batch % size):
            yield f"microbatch_size {size} does not divide the batch of {batch}: take a divisor, or 0 for none"


def presets(module: Any) -> dict[str, Recipe]:
    """Return the recipes of an experiment's module by name."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Recipe)}
