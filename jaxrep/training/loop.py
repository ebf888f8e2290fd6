"""The loop: it reads from top to bottom, and every recipe runs through it."""

import contextlib
import errno
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxrep import hosts
from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.loading.prefetch import Prefetch
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import format_results
from jaxrep.experiment import LoadedExperiment
from jaxrep.mesh import ROWS
from jaxrep.recipe import Recipe
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec_json import to_json
from jaxrep.training import bad_samples
from jaxrep.training.evaluation import Evaluator
from jaxrep.training.failures import all_hosts_reach
from jaxrep.training.metric_writers import MetricLogger, device_memory
from jaxrep.training.preemption import PreemptionHandler
from jaxrep.training.profiling import Profiler
from jaxrep.training.setup import Say, Setup, prepare
from jaxrep.training.watchdog import Watchdog

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def train(
    recipe: Recipe,
    run_dir: str | Path,
    loaded: LoadedExperiment | None = None,
    *,
    say: Say = print,
    devices: Sequence[Any] | None = None,
) -> ExitCode:
    """Trains a recipe in a run directory, or goes on with the run that is there, and evaluates it at the end.

    Args:
        recipe: what is trained.
        run_dir: where the run is kept, and found again: a directory, or a URL.
        loaded: the experiment, of which the run keeps a copy.
        say: told what a user should know.
        devices: those to use; all by default.

    Raises UsageError where the recipe, the devices or the directory do not fit, before anything is written.
    """
    try:
        with contextlib.closing(hosts.on_all_hosts(f"opening of {run_dir}", lambda: RunDir.at(run_dir))) as run:
            say = say if hosts.is_main() else _silent
            hosts.assert_equal(f"recipe of {run_dir}", to_json(recipe))
            setup = hosts.on_all_hosts(f"set-up of {run_dir}", lambda: prepare(recipe, run, loaded, say, devices))
            if (results := run.results()) is not None:
                return _report(results, setup, say)
            return _steps(setup, say)
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise JaxrepError(
            f"{run_dir} cannot be written: {error.strerror}; make room and run the same command to go on"
        ) from error


def _steps(setup: Setup, say: Say) -> ExitCode:
    """From the last checkpoint, or the beginning, to the end of the run."""
    recipe = setup.recipe
    with (
        jax.set_mesh(setup.mesh),
        contextlib.closing(Checkpoints(setup.run.path, recipe.checkpoint, setup.run.spool)) as checkpoints,
        PreemptionHandler(alone=jax.process_count() == 1) as stop,
        contextlib.closing(Watchdog(recipe.log.hang_seconds)) as watchdog,
        contextlib.closing(Profiler(recipe.profile, setup.run.path / "profile")) as profiler,
    ):
        state, data = setup.start(checkpoints)
        step_fn = setup.compile()
        evaluate = Evaluator(setup)
        first, found = int(state.step), {}
        loader = setup.loader(data["position"], bad_samples.own(BadSampleReport.from_json(data["ledger"])))
        reporter = MetricLogger(recipe, setup.run.path, first, setup.total_steps, main=hosts.is_main())
        before = None
        with (
            contextlib.closing(reporter),
            Prefetch(loader, NamedSharding(setup.mesh, ROWS)) as batches,
            contextlib.ExitStack() as at_the_end,
        ):
            at_the_end.callback(lambda: setup.run.keep_ledger(batches.ledger))
            for step in range(first + 1, setup.total_steps + 1):
                batch = next(batches)
                state, metrics = step_fn(state, batch)
                flops = step_fn.flops_of(batch)
                del batch  # so that its memory is free before the next one is taken
                jax.block_until_ready(before)  # one step runs while the next is prepared, and no more
                before = metrics["loss"]
                watchdog.step_ended(step)
                profiler.step_ended(step - first)
                reporter.advance(step, batches.data_wait, flops)
                last = step == setup.total_steps
                if batches.ledger.failed_shards:  # this host's shard; all stop at one step, and then say why
                    stop.request()
                leave = hosts.stop_requested(step, stop.requested)
                if last or step % recipe.log.every_steps == 0 or evaluate.due(step):
                    reporter.log(step, metrics, device_memory() | batches.metrics())
                    setup.run.keep_ledger(batches.ledger)
                if reporter.latest.get("skipped", 0) >= recipe.max_skipped_steps:
                    return _diverged(checkpoints, reporter, setup, say)
                try:
                    found = evaluate(step, state)
                except BaseException:  # an evaluation that fails, or is interrupted, costs no training
                    if all_hosts_reach(f"failed evaluation of step {step}"):
                        checkpoints.save(step, state, _data(batches, bad_samples.settled(step, batches, setup)))
                        checkpoints.wait()
                        say(f"step {step} is saved; to go on, run the same command: {_command()}")
                    raise
                reporter.add(found)
                if last or step % recipe.checkpoint.every_steps == 0 or found or leave:
                    reporter.flush()  # a line of metrics is on disk before the checkpoint that follows it
                    with reporter.saving():
                        ledger = bad_samples.settled(step, batches, setup)
                        checkpoints.save(step, state, _data(batches, ledger), found)
                    ledger.check(recipe.data.max_bad_fraction)
                if leave and not last:
                    return _preempted(step, checkpoints, setup, say)
        checkpoints.wait()
        results = found if first < setup.total_steps else evaluate(first, state)
        if hosts.is_main():
            setup.run.keep_results(results)
        return _report(results, setup, say)


def _data(batches: Prefetch, ledger: BadSampleReport) -> dict[str, Any]:
    """What a checkpoint keeps of the data, as JSON values."""
    return {"position": batches.position, "ledger": ledger.to_json()}


def _report(results: dict[str, float], setup: Setup, say: Say) -> ExitCode:
    say(format_results(results))
    say(f"the run lies in {setup.run}, at its end")
    return ExitCode.DONE


def _preempted(step: int, checkpoints: Checkpoints, setup: Setup, say: Say) -> ExitCode:
    checkpoints.wait()
    say(f"stopped at step {step} of {setup.total_steps}, which is saved; to go on, run the same command: {_command()}")
    return ExitCode.PREEMPTED


def _diverged(checkpoints: Checkpoints, reporter: MetricLogger, setup: Setup, say: Say) -> ExitCode:
    checkpoints.wait()
    last, step, count = checkpoints.latest(), reporter.latest_step, int(reporter.latest["skipped"])
    size = setup.recipe.data.batch_size
    say(
        f"{count} steps in a row had a loss or gradient that is not finite, up to step {step}: the run stops; "
        f"their examples are those at positions {(step - count) * size} to {step * size - 1} of the order; "
        f"{f'the last good checkpoint is that of step {last}' if last is not None else 'there is no checkpoint'}; "
        "a lower learning rate, a longer warm-up or optimizer.clip-norm often help"
    )
    return ExitCode.DIVERGED


def _silent(text: str) -> None:
    """Processes but the first say nothing."""


def _command() -> str:
    return shlex.join(["jaxrep", *sys.argv[1:]])
