"""Embed the images and texts of a data set with the model of a run or of a public checkpoint.

Writes image and text float32 [n,D] of unit length, if the model reads them and the data have them, and beside them key
(the name of an example) and index (its index in the data). Unreadable examples are skipped and reported with the
reason, also in a summary beside the embeddings. The same command resumes an interrupted job.
"""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from jaxrep.commands.models import add_arguments, add_batch_size, load, number
from jaxrep.commands.output import echo
from jaxrep.errors import UsageError

if TYPE_CHECKING:
    from jaxrep.data.bad_samples import BadSampleReport
    from jaxrep.embeddings.job import Compute, Job
    from jaxrep.model import Model

    Declare = Callable[..., tuple[Job, Compute]]

PRINTED_EXAMPLES = 10
"""Unreadable examples that are printed. The summary has more."""


def main(args: list[str]) -> int:
    """Run ``jaxrep embed MODEL DATA --out PATH [--per-shard N] [--share I/N] [--fsdp N] [--batch-size N]``."""
    parser = argparse.ArgumentParser(prog="jaxrep embed", description=__doc__)
    add_arguments(parser, "MODEL", "a run directory, or the folder of a public checkpoint")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder of images, tars (train-{00..09}.tar), a .parquet, a .csv, a .txt with one text per line, or any "
        "KIND:WHERE,field=value (see jaxrep data --help), as pairs.csv,image=file,text=caption",
    )
    add_job_options(parser)
    options = parser.parse_args(args)

    def declare(model: "Model", **rest: Any) -> "tuple[Job, Compute]":
        from jaxrep.embeddings.embed_source import embedding_job

        return embedding_job(model, options.data, options.out, **rest)

    return run(options, declare, "embedding", "wrote")


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add --out, and how the work is divided."""
    parser.add_argument(
        "--out",
        metavar="PATH",
        required=True,
        help="a file that ends in .npz, .parquet or .array_record; or a folder of numbered shards, as npz:FOLDER, "
        "parquet:FOLDER or arrayrecord:FOLDER",
    )
    for option, default, description in (
        ("--per-shard", 10_000, "examples per shard; an interrupted command loses at most one shard (default: 10,000)"),
        ("--fsdp", 1, "devices over which large parameters are split; rows are split over all devices (default: 1)"),
    ):
        parser.add_argument(option, type=number(1), metavar="N", default=default, help=description)
    add_batch_size(parser)
    parser.add_argument(
        "--share",
        metavar="I/N",
        help="write only every N-th shard of the folder, from the I-th on, counted from 0: each of N hosts runs the "
        "same command with its own I, at the same time or not (default: JAX_PROCESS_ID and JAX_NUM_PROCESSES, or 0/1)",
    )


def run(options: argparse.Namespace, declare: "Declare", doing: str, done: str) -> int:
    """Run a job over the examples of a source, and print a report.

    Args:
        options: Those of ``add_job_options`` and of the model.
        declare: Returns the job, and what computes its rows.
        doing: Name of the work, for the progress bar.
        done: The same for the report.
    """
    from jaxrep.embeddings.embed_source import check_readable
    from jaxrep.embeddings.job import parse_target, run_job
    from jaxrep.runs.remote import url_of

    # Wrong options are found before the model is loaded.
    share = _share(options.share, parse_target(options.out).is_folder)
    job, compute = declare(_model(options), per_shard=options.per_shard, model_path=url_of(options.run))
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(doing, total=sum(len(job.rows(shard)) for shard in job.remaining(share)))
        result = run_job(job, lambda rows: compute(rows, lambda count: bar.advance(task, count)), share)
    report = result.bad_samples
    readable = report.rows - report.bad_rows
    _print_unreadable(report)
    if result.complete:
        check_readable(readable, report)
    note = "" if result.complete else "; other shares are not done yet"
    echo(f"{done} {readable:,} of {report.rows:,} examples to {job.target.path}{note}")
    return 0


def _share(share: str | None, is_folder: bool) -> tuple[int, int]:
    """Return the number of this process's share, and the number of shares. Raises UsageError."""
    from jaxrep import hosts

    share = share or f"{os.environ.get(hosts.NUMBER) or 0}/{os.environ.get(hosts.COUNT) or 1}"
    match = re.fullmatch(r"(\d{1,10})/(\d{1,10})", share)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not index < count < 2**31:
        raise UsageError(f"--share is I/N, for four shares from 0/4 to 3/4, not {share}")
    if count > 1 and not is_folder:
        raise UsageError(f"{count} processes cannot write one file: name a folder of shards, as --out parquet:FOLDER")
    return index, count


def _model(options: argparse.Namespace) -> "Model":
    """Load the model, over all devices if there are several."""
    import jax

    from jaxrep.mesh import Mesh

    model, _ = load(options, Mesh(fsdp=options.fsdp) if jax.device_count() > 1 or options.fsdp > 1 else None)
    model.block_size = options.batch_size or model.block_size
    return model


def _print_unreadable(report: "BadSampleReport") -> None:
    """Print the reasons of unreadable examples, and the first examples."""
    reasons = Counter[str]()
    for (_, reason), count in report.bad.items():
        reasons[reason] += count
    for reason, count in reasons.most_common():
        echo(f"{count:,} unreadable: {reason}", file=sys.stderr)
    for sentence in report.examples[:PRINTED_EXAMPLES]:
        echo(f"  {sentence}", file=sys.stderr)
