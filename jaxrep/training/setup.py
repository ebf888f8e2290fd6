"""What stands before the first step: the recipe checked, the devices arranged, data opened, the state made or
restored."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxrep.data.bad_samples import EMPTY, BadSampleReport
from jaxrep.data.class_texts import read_tables
from jaxrep.data.fields import batch_fields
from jaxrep.data.loading.loader import Loader, Tokenize
from jaxrep.data.source import Examples
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.errors import UsageError
from jaxrep.experiment import LoadedExperiment
from jaxrep.mesh import ROWS, local_rows
from jaxrep.optim.optimizers import Updater
from jaxrep.recipe import From, Recipe
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec import problems
from jaxrep.step.flops import count_jaxpr_flops
from jaxrep.step.shapes import Shapes, trace_shapes
from jaxrep.step.train_state import TrainState, abstract_state, initial_state
from jaxrep.step.train_step import Step, abstract_batch, trace_step, with_tokens
from jaxrep.training.compilation import run_jitted_once
from jaxrep.training.metric_writers import check_writers
from jaxrep.training.warm_start import check_init, warm_start

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """The step, compiled for the devices and for each number of tokens that an order gives texts, and what it costs."""

    runs: Mapping[int, Step]  # by tokens
    costs: Mapping[int, float]  # floating-point operations of the whole step, over all devices
    texts: Sequence[str]

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        return self.runs[self._tokens(batch)](state, batch)

    @property
    def flops(self) -> float:
        """Floating-point operations of a step with the longest texts."""
        return self.costs[max(self.costs)]

    def flops_of(self, batch: Any) -> float:
        """Floating-point operations of the step on this batch."""
        return self.costs[self._tokens(batch)]

    def _tokens(self, batch: Any) -> int:
        return batch[self.texts[0]].shape[-1] if self.texts else max(self.runs)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A recipe that meets its devices, its data and its run directory."""

    recipe: Recipe
    shapes: Shapes
    mesh: jax.sharding.Mesh
    run: RunDir
    examples: Examples
    tokenizer: LoadedTokenizer
    updater: Updater
    total_steps: int
    say: Say
    loaded: LoadedExperiment | None = None  # the experiment; what is trained before this run is of the same

    @cached_property
    def abstract(self) -> TrainState:
        """The state's shapes, each with its sharding."""
        return abstract_state(self.recipe, self.shapes, self.updater, self.mesh)

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, Mapping[str, Any]]:
        """(state, where the loader stands): of the last checkpoint, or of the beginning."""
        found = checkpoints.restore_latest(self.abstract, self.say)
        if found is not None:
            last, state, meta = found
            self.say(f"goes on from step {last} of {self.total_steps}")
            return state, meta
        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        state = run_jitted_once(lambda: initial_state(self.recipe, self.shapes, self.updater), out_shardings=places)
        return self._with_tables(warm_start(self, state)), {"position": 0, "ledger": EMPTY.to_json()}

    def _with_tables(self, state: TrainState) -> TrainState:
        found = read_tables(self.recipe.data.tables, self.examples, self.tokenizer)
        placed = {path: jax.device_put(values, state.non_trainable[path].sharding) for path, values in found.items()}
        return dataclasses.replace(state, non_trainable={**state.non_trainable, **placed})

    def compile(self) -> CompiledStep:
        """The step for these devices, from shapes and shardings alone."""
        data, whole = self.recipe.data, abstract_batch(self.shapes, self.mesh)
        runs: dict[int, Step] = {}
        costs: dict[int, float] = {}
        for tokens in sorted({data.tokenizer.length, *(data.order.tokens if data.texts else ())}):
            batch = with_tokens(whole, data.texts, tokens)
            traced = trace_step(self.recipe, self.shapes, self.updater, self.total_steps, self.abstract, batch)
            runs[tokens], costs[tokens] = traced.lower().compile(), count_jaxpr_flops(traced.jaxpr.jaxpr)
        return CompiledStep(runs, costs, data.texts)

    def loader(self, position: int, ledger: BadSampleReport = EMPTY) -> Loader:
        """Batches from a position on, this host's rows of each. ``ledger``: what was bad before (``ledgers.own``)."""
        data = self.recipe.data
        return Loader(
            self.examples,
            self.examples.arranged(data.order, data.batch_size),
            data.batch_size,
            transform=Tokenize(self.tokenizer, data.texts),
            position=position,
            ledger=ledger,
            seed=self.recipe.seed,
            max_bad_fraction=data.max_bad_fraction,
            skip_failed_shards=data.skip_failed_shards,
            alone=jax.process_count() == 1,
            rows=local_rows(NamedSharding(self.mesh, ROWS), data.batch_size),
            workers=data.workers,
        )


def validate(recipe: Recipe) -> Shapes:
    """The first two stages of validation. Raises UsageError: every static mistake, or the first of shape."""
    if found := problems(recipe):
        raise UsageError("the recipe has mistakes:\n" + "\n".join(f"  {sentence}" for sentence in found))
    return trace_shapes(recipe, batch_fields(recipe.data.train, recipe.data.tokenizer, recipe.data.texts))


def prepare(
    recipe: Recipe, run: RunDir, loaded: LoadedExperiment | None, say: Say, devices: Sequence[Any] | None = None
) -> Setup:
    """All three stages of validation, then the run directory and the data. Raises UsageError."""
    traced = validate(recipe)
    mesh = recipe.mesh.build(devices)
    check_devices(recipe, mesh)
    recipe.mesh.check(traced.arrays)
    updater = traced.updater(recipe)
    if not run.exists():  # a run that goes on needs them no more
        check_init(recipe, traced)
    check_writers(recipe.log)
    run.claim(recipe, loaded, say)
    examples = recipe.data.train.open()
    tokenizer = run.tokenizer(recipe, lambda: training_texts(recipe, examples), lambda: inherited_tokenizer(recipe))
    return Setup(
        recipe=recipe,
        shapes=traced,
        mesh=mesh,
        run=run,
        examples=examples,
        tokenizer=tokenizer,
        updater=updater,
        total_steps=recipe.total_steps(len(examples)),
        say=say,
        loaded=loaded,
    )


def check_devices(recipe: Recipe, mesh: jax.sharding.Mesh) -> None:
    """The third stage: that the batch and the microbatch divide over the devices. Raises UsageError."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    for name, size in (("data.batch_size", recipe.data.batch_size), ("microbatch_size", recipe.microbatch_size)):
        if size % devices:
            raise UsageError(
                f"{name} is {size}, which {devices} devices (data x fsdp) do not divide: take a multiple of {devices}"
            )


def inherited_tokenizer(recipe: Recipe) -> LoadedTokenizer | None:
    """The tokenizer of the run or the recipe that a part starts from, where both declare the same one, of whatever
    length: its embeddings are those of that vocabulary."""
    ours = recipe.data.tokenizer
    for origin in recipe.init.values():
        if not isinstance(origin, From):
            continue
        run = None if isinstance(origin.source, Recipe) else RunDir(Path(origin.source))
        theirs = origin.source if run is None else run.recipe()
        if dataclasses.replace(theirs.data.tokenizer, length=ours.length) != ours:
            continue
        if run is not None:
            found = run.tokenizer(theirs, tuple)
        else:
            found = inherited_tokenizer(theirs) or theirs.data.tokenizer.load(
                training_texts(theirs, theirs.data.train.open())
            )
        return ours.restore(found.state)
    return None


def training_texts(recipe: Recipe, examples: Examples) -> Iterable[str]:
    """The texts of training, from which a tokenizer may learn its vocabulary."""
    for name in recipe.data.texts:
        for text in examples.column(name):
            yield from (text,) if isinstance(text, str) else text
