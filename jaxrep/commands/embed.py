"""Embeds the images and texts of a data set by the model of a run or of a public checkpoint.

Writes ``image`` and ``text`` float32 [n,D] of unit length, as far as the model reads them and the data holds them, and
beside them ``key`` (what an example is called) and ``index`` (its place in the data). What cannot be read is left out,
and said with its reason, also in a summary beside the embeddings. The same command goes on with what was interrupted.
"""

import argparse
import os
import re
import sys
import typing
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from jaxrep.commands.models import add_arguments, load
from jaxrep.data.source import Source
from jaxrep.data.source_string import parse_source, read
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.spec_json import to_json

if TYPE_CHECKING:
    from jaxrep.embeddings.job import Job, Told
    from jaxrep.model import Model

PARTS = ("image", "text")
NAMED = 10
"""Bad examples that are printed; the summary has more."""


def main(args: list[str]) -> int:
    """``jaxrep embed MODEL DATA --out PATH [--per-shard N] [--share I/N] [--fsdp N] [--batch-size N]``"""
    parser = argparse.ArgumentParser(prog="jaxrep embed", description=__doc__)
    add_arguments(parser, "MODEL", "a run directory, or the folder of a public checkpoint")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder of images, tars (train-{00..09}.tar), a .parquet, a .csv, a .txt with a text a line, or any "
        "KIND:WHERE,field=value (see jaxrep data --help), as pairs.csv,image=file,text=caption",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        required=True,
        help="a file that ends in .npz, .parquet or .array_record; or a folder of numbered shards, as npz:FOLDER, "
        "parquet:FOLDER or arrayrecord:FOLDER",
    )
    _add(parser, "--per-shard", 10_000, "examples of a shard; an interrupted command loses no more (default: 10,000)")
    _add(parser, "--batch-size", 0, "examples at a time (default: 256, of public checkpoints 64)")
    _add(parser, "--fsdp", 1, "devices over which large parameters are split; rows lie over all devices (default: 1)")
    parser.add_argument(
        "--share",
        metavar="I/N",
        help="write only every N-th shard of the folder, from the I-th on, counted from 0: each of N hosts runs the "
        "same command with its own I, at once or not (default: JAX_PROCESS_ID and JAX_NUM_PROCESSES, or 0/1)",
    )
    given = parser.parse_args(args)
    return embed(given)


def _add(parser: argparse.ArgumentParser, name: str, default: int, told: str) -> None:
    parser.add_argument(name, type=int, metavar="N", default=default, help=told)


def embed(given: argparse.Namespace) -> int:
    """Reads model and data, does the job, and says what became of it."""
    from jaxrep.embeddings import job as jobs
    from jaxrep.embeddings.embedder import Embedder
    from jaxrep.runs.remote import url_of

    target, share = jobs.target(given.out), _share(given)
    model = _model(given)
    source, parts = _source(given.data, model)
    examples = source.open()
    facts = {
        "model": {"path": url_of(given.run), "digest": model.digest()},
        "data": to_json(source),
        "parts": list(parts),
        "length": len(examples),
        "per_shard": given.per_shard,
        "format": target.kind,
    }
    job = jobs.Job(target, facts, len(examples), given.per_shard)
    embedder = Embedder(model, examples, parts)
    with Progress(console=Console(stderr=True)) as bar:
        rows = sum(len(job.rows(shard)) for shard in job.left(share))
        task = bar.add_task("embedding", total=rows)
        told = jobs.run(job, lambda rows: embedder(rows, lambda done: bar.advance(task, done)), share)
    _report(job, told)
    return 0


def _share(given: argparse.Namespace) -> tuple[int, int]:
    """The share of this process: its number and how many there are. Raises UsageError."""
    from jaxrep import hosts

    for name in ("per_shard", "fsdp"):
        if getattr(given, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} is a number of at least 1, not {getattr(given, name)}")
    said = given.share or f"{os.environ.get(hosts.NUMBER) or 0}/{os.environ.get(hosts.COUNT) or 1}"
    found = re.fullmatch(r"(\d+)/(\d+)", said)
    number, count = map(int, found.groups()) if found else (0, 0)
    if number >= count:
        raise UsageError(f"--share says which share of how many, from 0/4 to 3/4 of four, not {said}")
    if count > 1 and ":" not in given.out:
        raise UsageError(f"{count} processes do not write one file: name a folder of shards, as --out parquet:FOLDER")
    return number, count


def _model(given: argparse.Namespace) -> "Model":
    """The model, over all devices where there are several."""
    import jax

    from jaxrep.mesh import Mesh
    from jaxrep.pretrained.load import is_checkpoint, load_checkpoint

    mesh = Mesh(fsdp=given.fsdp) if jax.device_count() > 1 or given.fsdp > 1 else None
    if is_checkpoint(given.run):
        if (given.checkpoint, given.weights) != ("latest", "auto"):
            raise UsageError(f"--checkpoint and --weights choose among those of a run, and {given.run} is none")
        model = load_checkpoint(given.run, mesh)
    else:
        model, _ = load(given)
        model = model.shard(mesh) if mesh else model
    model.block_size = given.batch_size if given.batch_size > 0 else model.block_size
    return model


def _source(text: str, model: "Model") -> tuple[Source, tuple[str, ...]]:
    """What DATA declares, and which parts of it are embedded. Raises UsageError."""
    cls, _ = read(text)
    hints = typing.get_type_hints(cls)
    fields: dict[str, Any] = {"labels_from_folders": False}
    if "image" in model.fields:
        fields["image_size"] = model.image_shape("image")[0]
    for part in PARTS:
        if part not in model.fields and part in hints:
            fields[part] = "" if hints[part] is str else ()
    source = parse_source(text, fields)
    held = [part for part in PARTS if part in source.fields()]
    parts = tuple(part for part in held if part in model.fields)
    if not parts:
        reads = " and ".join(model.fields)
        raise UsageError(f"{text} holds {' and '.join(held) or 'no picture and no text'}, and the model reads {reads}")
    if "text" in parts and source.fields()["text"].shape:
        raise UsageError(f"{text} holds several texts an example, and one is embedded: name one")
    return source, parts


def _report(job: "Job", told: "Told") -> None:
    bad = Counter[str]()
    for (_, reason), count in told.ledger.bad.items():
        bad[reason] += count
    for reason, count in bad.most_common():
        print(f"{count:,} left out: {reason}", file=sys.stderr)
    for sentence in told.ledger.examples[:NAMED]:
        print(f"  {sentence}", file=sys.stderr)
    if told.whole and not told.rows:
        first = f"; the first: {told.ledger.examples[0]}" if told.ledger.examples else ""
        raise JaxrepError(f"none of the {told.ledger.rows:,} examples can be read{first}")
    share = "" if told.whole else "; other shares are not done yet"
    print(f"wrote {told.rows:,} of {told.ledger.rows:,} examples to {job.target.path}{share}")
