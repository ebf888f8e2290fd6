"""Prepare a run: check the recipe, arrange the devices, open the data, claim the run directory."""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxrep import hosts
from jaxrep.data._util.parallel import decoding_threads
from jaxrep.data.bad_samples import EMPTY_REPORT, BadSampleReport
from jaxrep.data.class_texts import read_tables
from jaxrep.data.loading.loader import Loader, Tokenize
from jaxrep.data.orders.base import Indices
from jaxrep.data.source import Examples, as_captions
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.errors import UsageError, secret_in
from jaxrep.evals.base import open_data
from jaxrep.experiment import LoadedExperiment
from jaxrep.mesh import ROWS, local_rows, shared_parts
from jaxrep.optim.optimizers import Updater
from jaxrep.recipe import Data, From, Pretrained, Recipe
from jaxrep.runs import provenance
from jaxrep.runs.remote import fetch_run
from jaxrep.runs.run_dir import RunDir
from jaxrep.schedules import Schedule
from jaxrep.spec import join_path, walk
from jaxrep.step.shapes import Shapes, fit_devices
from jaxrep.storage import CREDENTIALS
from jaxrep.training.metric_writers import check_writers
from jaxrep.training.stopwatch import Stopwatch
from jaxrep.training.warm_start import check_init

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Setup:
    """Hold a recipe with its devices, its data and its run directory."""

    recipe: Recipe
    shapes: Shapes
    mesh: jax.sharding.Mesh
    run: RunDir
    examples: Examples
    order: Indices
    tokenizer: LoadedTokenizer
    updater: Updater
    total_steps: int
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Addresses on a hub that the run starts from, each with its commit."""
    eval_data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fingerprints of the data of the evaluations, by evaluation and field."""

    @property
    def init(self) -> Mapping[str, From | Pretrained]:
        """The ``init`` of the recipe, with addresses on a hub at their commits."""
        return provenance.at_commits(self.recipe, self.origins).init

    @functools.cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """The values of all tables, by path."""
        return read_tables(self.recipe.data.tables, self.examples, self.tokenizer)

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """Return what checkpoints hold besides arrays and the position. A run that resumes must find it again."""
        tables = {path: hashlib.sha256(values.tobytes()).hexdigest() for path, values in self.tables.items()}
        facts = {"data": self.examples.fingerprint(), "tables": tables, "total_steps": self.total_steps}
        facts |= {"origins": dict(self.origins)} if self.origins else {}
        return provenance.record(self.recipe, self.tokenizer, **facts)


def prepare(
    recipe: Recipe,
    run: RunDir,
    experiment: LoadedExperiment | None,
    devices: Sequence[Any] | None = None,
    origins: Mapping[str, str] = {},
    stopwatch: Stopwatch | None = None,
) -> Setup:
    """Check a recipe, open its data, and claim its run directory.

    ``origins``: those of the run (``RunDir.origins``). ``stopwatch``: takes the time of tracing and of the data.

    Raises:
        UsageError: the recipe, the devices, the origins of ``init``, the data or the run directory do not fit.
            Nothing is written before all checks have passed.
    """
    check_secrets(recipe)
    stopwatch = stopwatch or Stopwatch()
    shapes, mesh, updater = fit_devices(recipe, devices)
    stopwatch.lap("tracing")
    fixed = provenance.at_commits(recipe, origins)
    started = recipe.replace(init=fixed.init)  # the tokenizer as declared, for comparisons
    if not run.exists():  # a resumed run does not read its origins again
        check_init(fixed, shapes)
    check_writers(recipe.log)
    run.check(recipe)
    examples = recipe.data.train.open()
    if len(examples) < recipe.data.batch_size:
        raise UsageError(
            f"data.batch_size is {recipe.data.batch_size}, and the training data hold {len(examples)} examples: take a "
            "smaller batch"
        )
    order = examples.ordered_indices(recipe.data.order, recipe.data.batch_size)
    eval_data = {} if run.results() is not None else open_data(recipe.evals)
    tokenizer = run.tokenizer(fixed, lambda: training_texts(recipe, examples), lambda: inherited_tokenizer(started))
    total_steps = recipe.total_steps(len(examples))
    run.claim(recipe, experiment, origins)
    run.keep_tokenizer(tokenizer)
    warn_of_lengths(recipe, total_steps)
    warn_of_shared_shards(recipe.data, mesh)
    stopwatch.lap("data")
    return Setup(recipe, shapes, mesh, run, examples, order, tokenizer, updater, total_steps, origins, eval_data)


def check_secrets(recipe: Recipe) -> None:
    """Check that no text of a recipe holds a password or a token. Raises UsageError: a run keeps its recipe on disk."""
    for path, value in walk(recipe):
        if isinstance(value, str) and (found := secret_in(value)):
            raise UsageError(f"{path} is {value} with {found}, and a run keeps its recipe on disk: {CREDENTIALS}")


def warn_of_lengths(recipe: Recipe, total_steps: int) -> None:
    """Warn of lengths of schedules, in steps, that exceed the training: a warm-up that never ends."""
    lengths = ("warmup_steps", "cooldown_steps", "after", "steps", "every")
    for path, part in walk(recipe):
        for name in lengths if isinstance(part, Schedule) else ():
            if (steps := getattr(part, name, 0)) > total_steps:
                LOG.warning("%s is %d steps, and the training has %d", join_path(path, name), steps, total_steps)


def warn_of_shared_shards(data: Data, mesh: jax.sharding.Mesh) -> None:
    """Say that several hosts read the same shards, where they are no whole lanes of the order."""
    lanes = data.order.shard_lanes
    if hosts.is_main() and (shared := shared_parts(NamedSharding(mesh, ROWS), data.batch_size, lanes)):
        LOG.warning(
            "hosts share shards: those of %d of the %d lanes of data.order are read by several hosts; the batches are "
            "the same, and hosts whose number divides data.order.lanes share none",
            shared,
            lanes,
        )


def make_loader(setup: Setup, position: int, report: BadSampleReport = EMPTY_REPORT) -> Loader:
    """Return a loader of this host's rows of each batch, from a position of the order on.

    Args:
        setup: the run.
        position: examples that were trained on before.
        report: bad samples that this process counted before.
    """
    data = setup.recipe.data
    single = tuple(name for name in data.texts if not data.train.fields()[name].shape)
    return Loader(
        setup.examples,
        setup.order,
        data.batch_size,
        transform=Tokenize(setup.tokenizer, data.texts, single),
        position=position,
        bad_samples=report,
        seed=setup.recipe.seed,
        max_bad_fraction=data.max_bad_fraction,
        skip_failed_shards=data.skip_failed_shards,
        single_host=jax.process_count() == 1,
        rows=local_rows(NamedSharding(setup.mesh, ROWS), data.batch_size),
        workers=data.workers,
        threads=decoding_threads(data.threads, data.workers),
        background=setup.mesh.devices.flat[0].platform != "cpu",
    )


def inherited_tokenizer(recipe: Recipe) -> LoadedTokenizer | None:
    """Return the tokenizer of the run or recipe that a part starts from, if both declare the same tokenizer.

    Embeddings belong to the ids of their vocabulary. The lengths may differ.
    """
    declared = recipe.data.tokenizer
    for origin in recipe.init.values():
        if not isinstance(origin, From):
            continue
        run = None if isinstance(origin.source, Recipe) else RunDir(fetch_run(origin.source))
        source = origin.source if run is None else run.recipe()
        if dataclasses.replace(source.data.tokenizer, length=declared.length) != declared:
            continue
        if run is not None:
            loaded = run.tokenizer(source, tuple)
        else:
            texts = training_texts(source, source.data.train.open())
            loaded = inherited_tokenizer(source) or source.data.tokenizer.load(texts)
        return declared.restore(loaded.state)
    return None


def training_texts(recipe: Recipe, examples: Examples) -> Iterable[str]:
    """Yield the texts of the training data that can be read, from which a tokenizer may learn its vocabulary."""
    for name in recipe.data.texts:
        for value in examples.column(name):
            yield from (text for text in as_captions(value) if text)  # "" stands for what cannot be read
