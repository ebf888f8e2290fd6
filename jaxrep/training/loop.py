"""Train a recipe: the loop, from top to bottom."""

import contextlib
import functools
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxrep import hosts, signals
from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.loading.prefetch import Prefetch
from jaxrep.errors import DISK_ERRNOS, JaxrepError, memory_fault
from jaxrep.experiment import LoadedExperiment, recipe_json
from jaxrep.mesh import ROWS
from jaxrep.recipe import From, Recipe
from jaxrep.runs import layout
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.remote import fetch_run
from jaxrep.runs.run_dir import RunDir
from jaxrep.step.programs import Programs
from jaxrep.step.train_state import TrainState, abstract_state
from jaxrep.step.train_step import CompiledStep, compile_step
from jaxrep.training import bad_samples
from jaxrep.training.compilation import program_identity
from jaxrep.training.evaluation import Evaluator
from jaxrep.training.failures import all_hosts_reach
from jaxrep.training.metric_writers import MetricLogger, device_memory
from jaxrep.training.preemption import PreemptionHandler
from jaxrep.training.profiling import Profiler
from jaxrep.training.setup import Setup, make_loader, prepare
from jaxrep.training.stopwatch import CHECKPOINTS, EVALUATIONS, STEPS, WAIT, Stopwatch
from jaxrep.training.warm_start import origin_place, restore_or_initialize
from jaxrep.training.watchdog import Watchdog

LOG = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    run_dir: str | Path,
    experiment: LoadedExperiment | None = None,
    *,
    devices: Sequence[Any] | None = None,
    stopwatch: Stopwatch | None = None,
    programs_in: str = "",
) -> ExitCode:
    """Train a recipe in a run directory, or resume the run that is there, and evaluate it at the end.

    Args:
        recipe: the recipe.
        run_dir: directory or URL of the run.
        experiment: the experiment of the recipe; the run keeps a copy of its file.
        devices: devices to use; all by default.
        stopwatch: what has measured the launch so far; by default the launch is this call.
        programs_in: folder or URL where compiled programs are kept whole for the next run of the recipe; empty: they
            are not. Only a process that executes jaxrep's code as its files have it may name one.

    Raises:
        UsageError: the recipe, the devices or the directory do not fit; nothing is written.
    """
    stopwatch = stopwatch or Stopwatch()
    try:
        run = hosts.on_all_hosts(f"opening of {run_dir}", lambda: RunDir.at(run_dir))
        with contextlib.closing(run):
            hosts.assert_equal(f"recipe of {run_dir}", recipe_json(recipe))
            hosts.on_all_hosts(f"clearing of {run_dir}", lambda: run.set_aside_unstarted(recipe, experiment))
            found = hosts.on_all_hosts(f"origins of {run_dir}", lambda: run.origins(recipe))
            origins = hosts.all_gather_object(f"origins of {run_dir}", found)[0]
            setup = hosts.on_all_hosts(
                f"set-up of {run_dir}", lambda: prepare(recipe, run, experiment, devices, origins, stopwatch)
            )
            signals.check()
            if run.results() is not None:
                LOG.info("%s is finished", run)
                return ExitCode.DONE
            folders = _train_origins(setup, experiment, programs_in, stopwatch)
            if folders:
                stopwatch.lap("other runs")
            placed = setup.mesh.devices.ravel().tolist()
            known = (setup.total_steps, setup.shapes.arrays, setup.shapes.batch)
            identity = program_identity(recipe, experiment, placed, *known) if programs_in else ""
            return _steps(setup, folders, Programs(programs_in, identity, placed, stopwatch.lap), stopwatch)
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        raise JaxrepError(
            f"{run_dir} cannot be written: {error.strerror}; make room and run the same command to resume"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if not (words := memory_fault(error)):
            raise
        raise JaxrepError(_too_large(recipe, words)) from error


def _train_origins(
    setup: Setup, experiment: LoadedExperiment | None, programs_in: str, stopwatch: Stopwatch
) -> dict[str, Path]:
    """Return the directories of the runs from which parts start; train those recipes that have no finished run.

    A run with a checkpoint needs none of them.
    """
    origins = {path: origin for path, origin in setup.init.items() if isinstance(origin, From)}
    if not origins or setup.run.has_checkpoint():
        return {}
    folders = {}
    for path, origin in origins.items():
        place, missing = origin_place(origin, setup.run)
        if missing:
            LOG.info("init.%s starts from a recipe without a finished run: training it first, in %s", path, place)
            own = Stopwatch(when_ready=stopwatch.when_ready)
            placed = setup.mesh.devices.ravel().tolist()
            status = train(origin.source, place, experiment, devices=placed, stopwatch=own, programs_in=programs_in)
            if status is not ExitCode.DONE:
                raise JaxrepError(
                    f"the run in {place}, from which init.{path} starts, did not finish ({status.name.lower()})"
                )
        folders[path] = fetch_run(place)
    return folders


def _steps(setup: Setup, origins: dict[str, Path], programs: Programs, stopwatch: Stopwatch) -> ExitCode:
    """Train from the last checkpoint, or from the start, to the last step."""
    recipe, run = setup.recipe, setup.run
    with (
        jax.set_mesh(setup.mesh),
        contextlib.closing(Checkpoints(run.path, recipe.checkpoint, run.spool)) as checkpoints,
        PreemptionHandler(alone=jax.process_count() == 1) as stop,
        contextlib.closing(Watchdog(recipe.log.hang_seconds)) as watchdog,
        contextlib.closing(Profiler(recipe.profile, run.path / layout.PROFILE)) as profiler,
    ):
        state, data, step_fn = _before_steps(setup, checkpoints, origins, programs, stopwatch)
        evaluate, first, results, previous_loss = Evaluator(setup), int(state.step), {}, None
        logger = MetricLogger(recipe, run.path, first, setup.total_steps, main=hosts.is_main())
        with contextlib.closing(logger), _batches(setup, data) as batches:
            save = functools.partial(_save, setup, checkpoints, batches)
            for step in range(first + 1, setup.total_steps + 1):
                # Step
                batch = next(batches)
                stopwatch.lap(WAIT if stopwatch.rest else "data")
                if not stopwatch.rest:
                    LOG.info(stopwatch.first_step())
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics = step_fn(state, batch)
                flops = step_fn.flops_of(batch)
                del batch  # frees its memory before the next batch is taken
                jax.block_until_ready(previous_loss)  # at most one step runs while the next is prepared
                previous_loss = metrics["loss"]
                watchdog.step_ended(step)
                profiler.step_ended(step - first)
                logger.advance(step, batches.data_wait, flops)
                last = step == setup.total_steps

                # Stop: all hosts agree on one step
                if batches.bad_samples.failed_shards:
                    stop.request()
                leave = hosts.stop_requested(step, stop.requested)

                # Log
                logged = last or step % recipe.log.every_steps == 0 or bool(evaluate.due(step))
                if logged:
                    logger.log(step, metrics, device_memory() | batches.metrics())
                    run.write_bad_samples(batches.bad_samples)
                if logger.latest.get("skipped", 0) >= recipe.max_skipped_steps:
                    return _diverged(checkpoints, logger, setup)

                # Evaluate
                with _saved_on_failure(step, checkpoints, lambda: save(step, state)):  # noqa: B023
                    if evaluate.due(step):
                        jax.block_until_ready(state)
                    stopwatch.lap(STEPS)
                    results = evaluate(step, state)
                    stopwatch.lap(EVALUATIONS)
                logger.add(results)

                # Checkpoint
                if checkpoints.due(step, logged) or last or results or leave:
                    logger.flush()  # the metrics of a step are on disk before its checkpoint
                    stopwatch.lap(STEPS)
                    with logger.saving():
                        report = save(step, state, results)
                    report.check(recipe.data.max_bad_fraction)
                    if last or leave:
                        bad_samples.tell(report, run)
                    stopwatch.lap(CHECKPOINTS)
                if leave and not last:
                    return _preempted(step, checkpoints, setup, stopwatch)
        checkpoints.wait()
        _tell_shares(stopwatch)
        results = results if first < setup.total_steps else evaluate(first, state)
        if hosts.is_main():
            run.keep_results(results, setup.eval_data)
        return ExitCode.DONE


def _before_steps(
    setup: Setup, checkpoints: Checkpoints, origins: dict[str, Path], programs: Programs, stopwatch: Stopwatch
) -> tuple[TrainState, Mapping[str, Any], CompiledStep]:
    """Return the state to train from, the state of the data, and the compiled step."""
    like = abstract_state(setup.recipe, setup.shapes, setup.updater, setup.mesh)
    stopwatch.lap("tracing")
    state, data = restore_or_initialize(setup, checkpoints, like, origins, programs)
    stopwatch.lap("restore")
    known = (setup.recipe, setup.shapes, setup.updater, setup.total_steps, setup.mesh)
    step_fn = compile_step(*known, like, programs)
    stopwatch.when_ready()
    return state, data, step_fn


@contextlib.contextmanager
def _batches(setup: Setup, data: Mapping[str, Any]) -> Iterator[Prefetch]:
    """Yield the batches from a checkpoint's state of the data on; at the end, write the bad samples."""
    report = bad_samples.of_this_host(BadSampleReport.from_json(data["bad_samples"]))
    loader = make_loader(setup, data["position"], report)
    with Prefetch(loader, NamedSharding(setup.mesh, ROWS)) as batches:
        try:
            yield batches
        finally:
            setup.run.write_bad_samples(batches.bad_samples)


def _save(
    setup: Setup,
    checkpoints: Checkpoints,
    batches: Prefetch,
    step: int,
    state: TrainState,
    results: dict[str, float] | None = None,
) -> BadSampleReport:
    """Save a step, and return the bad samples of all hosts; all processes must call this."""
    report = bad_samples.merge_hosts(step, batches, setup.run, functools.partial(make_loader, setup))
    meta = {"position": batches.position, "bad_samples": report.to_json(), **setup.record}
    checkpoints.save(step, state, meta, results)
    return report


@contextlib.contextmanager
def _saved_on_failure(step: int, checkpoints: Checkpoints, save: Callable[[], object]) -> Iterator[None]:
    """Save the step if what is within fails or is interrupted: a failed evaluation loses no training."""
    try:
        yield
    except BaseException:
        if all_hosts_reach(f"failed evaluation of step {step}"):
            save()
            checkpoints.wait()
            LOG.info("step %d is saved; to resume, run the same command: %s", step, _command())
        raise


def _tell_shares(stopwatch: Stopwatch) -> None:
    """Say where the time of a run went, once its last checkpoint is saved; nothing if it made no step."""
    stopwatch.lap(CHECKPOINTS)
    if stopwatch.rest:
        LOG.info(stopwatch.summary())


def _preempted(step: int, checkpoints: Checkpoints, setup: Setup, stopwatch: Stopwatch) -> ExitCode:
    checkpoints.wait()
    _tell_shares(stopwatch)
    told = "stopped at step %d of %d, which is saved; to resume, run the same command: %s"
    LOG.info(told, step, setup.total_steps, _command())
    return ExitCode.PREEMPTED


def _diverged(checkpoints: Checkpoints, logger: MetricLogger, setup: Setup) -> ExitCode:
    checkpoints.wait()
    last, step, count = checkpoints.latest(), logger.latest_step, int(logger.latest["skipped"])
    size = setup.recipe.data.batch_size
    LOG.error(
        "the loss or the gradient was not finite for %d steps in a row, up to step %d: the run stops. The examples of "
        "these steps are at positions %d to %d of the order. %s. A lower learning rate, a longer warm-up or "
        "optimizer.clip-norm often help",
        count,
        step,
        (step - count) * size,
        step * size - 1,
        f"The last good checkpoint is that of step {last}" if last is not None else "There is no checkpoint",
    )
    return ExitCode.DIVERGED


def _too_large(recipe: Recipe, words: str) -> str:
    rows = recipe.microbatch_size or recipe.data.batch_size
    return (
        f"the devices have too little memory for {rows} rows at a time ({words}): lower microbatch_size (it is "
        f"{recipe.microbatch_size or 'the whole batch'}) or data.batch_size ({recipe.data.batch_size}), or split the "
        f"parameters over more devices by mesh.fsdp ({recipe.mesh.fsdp}); `jaxrep plan` computes what a step needs"
    )


def _command() -> str:
    return shlex.join(["jaxrep", *sys.argv[1:]])
