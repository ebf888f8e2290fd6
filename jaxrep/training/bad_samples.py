"""Merge the bad-sample reports of all hosts whenever a checkpoint is saved.

Between two checkpoints each process counts its own rows. At a checkpoint all processes stand at the same step, so the
sum is the report of one process that reads all rows. All processes then act on it alike: they stop if too many samples
are bad, and skip the same shards.
"""

import dataclasses
import logging
from collections.abc import Callable

from jaxrep import hosts
from jaxrep.data.bad_samples import EMPTY_REPORT, BadSampleReport
from jaxrep.data.loading.loader import Loader
from jaxrep.data.loading.prefetch import Prefetch
from jaxrep.runs.run_dir import RunDir

LOG = logging.getLogger(__name__)


def of_this_host(total: BadSampleReport) -> BadSampleReport:
    """Return the report that this process continues from a checkpoint's report.

    The first process takes all counts, so that the sum over processes stays. Failed shards are tried again.
    """
    if hosts.is_main():
        return dataclasses.replace(total, failed_shards=())
    return BadSampleReport(skipped_shards=total.skipped_shards)


def merge_hosts(
    step: int, batches: Prefetch, run: RunDir, loader_at: Callable[[int, BadSampleReport], Loader]
) -> BadSampleReport:
    """Return the report of all processes after a step, and keep it in the run; all processes must call this.

    If another process skipped a shard, this process skips it from here on: it reads again from this step, as a run that
    resumes from the checkpoint does.

    Args:
        step: the step after which all processes stand.
        batches: the batches of this process.
        run: the run.
        loader_at: returns a loader from a position on, given the report so far.
    """
    reports = hosts.all_gather_object(f"bad samples of {run} at step {step}", batches.bad_samples.to_json())
    total = sum(map(BadSampleReport.from_json, reports), EMPTY_REPORT)
    if set(total.skipped_shards) - set(batches.bad_samples.skipped_shards):
        report = batches.bad_samples + BadSampleReport(skipped_shards=total.skipped_shards)
        batches.switch_to(loader_at(batches.position, report))
    if hosts.is_main():
        run.write_bad_samples(total, of_all=True)
    return total


def tell(total: BadSampleReport, run: RunDir) -> None:
    """Warn of the examples that a run could not read so far, if there are any."""
    if total.bad_rows and hosts.is_main():
        LOG.warning(
            "%d of the %d examples (%.2g%%) could not be read, and others took their places: %s/bad_samples.json "
            "counts them by file and reason",
            total.bad_rows,
            total.rows,
            100 * total.bad_rows / total.rows,
            run,
        )
