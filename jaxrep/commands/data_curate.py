"""Balance the pairs of a source over a list of concepts, as MetaCLIP does (Xu et al. 2024, arXiv:2309.16671).

A pair is dropped if its text has none of the entries. If more than T texts have an entry, the entry is sampled in each
of them with the probability T / texts, and a pair is kept if one of its entries is sampled. Images are not read. Run
the same command again to continue an interrupted curation; another T or seed uses the first pass again.
"""

import argparse
from pathlib import Path
from typing import Any

from jaxrep.commands.data import add_workers, choose_workers, parse_target, tool_parser
from jaxrep.commands.models import check_out, number
from jaxrep.commands.output import echo
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.patterns import local
from jaxrep.data.tools import convert, curate, curate_beam
from jaxrep.data.transforms.balance import TakeCurated, key_of
from jaxrep.disk_cache import write_atomically
from jaxrep.errors import JaxrepError, UsageError, hint


def main(args: list[str]) -> int:
    """Run ``jaxrep data curate SOURCE --metadata FILE … --out FOLDER [--t T] [--copy KIND:FOLDER] [--keys FILE] …``."""
    given = _parser().parse_args(args)
    source = parse_source(given.source)
    _check(given, source.fields())
    plan = curate.Plan.of(source, tuple(given.metadata), local(given.out), given.t, given.seed, given.per_chunk)
    if given.beam is None:
        report = curate.curate(plan, choose_workers(given.workers, True) if len(plan.chunks) > 1 else 0)
    else:
        report = curate_beam.curate(plan, given.beam)
    echo("\n".join(lines(report, plan.result)))
    if not report["kept"]:
        raise JaxrepError(f"no text of {given.source} has one of the {report['entries']:,} entries")
    curated = TakeCurated(source=source, kept=plan.result)
    if given.keys:
        _write_keys(given.keys, curated)
    if given.copy:
        kind, folder = parse_target(given.copy)
        copy = convert.Plan(curated, kind, Path(folder), 1000, report["kept"])
        workers = choose_workers(given.workers, True) if len(copy.shards) > 8 else 0
        echo(f"wrote {convert.convert(copy, workers)['written']:,} pairs to {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser("curate", __doc__, "the pool")
    add = parser.add_argument
    add("--metadata", metavar="FILE", nargs="+", required=True, help="entries: one per line, or a JSON list (.json)")
    add("--out", metavar="FOLDER", required=True, help="folder of counts and choices: a path or URL")
    add("--t", type=number(1), default=20_000, metavar="T", help="texts per entry that are all kept (default: 20000)")
    add("--seed", type=number(0, 2**64 - 1), default=0, metavar="N", help="seed of the draws (default: 0)")
    add("--copy", metavar="KIND:FOLDER", help="also write the kept pairs as shards: tar, arrayrecord, parquet or csv")
    add("--keys", metavar="FILE", type=Path, help="write the keys of the kept pairs, one per line")
    add("--per-chunk", type=number(1), default=20_000, metavar="N", help="pairs per chunk of work (default: 20000)")
    add_workers(parser)
    add("--beam", nargs=argparse.REMAINDER, metavar="OPTION", help="run on Apache Beam, with these options for Beam")
    return parser


def _check(given: argparse.Namespace, fields: dict[str, Any]) -> None:
    """Check the arguments before the work begins. Raises UsageError."""
    check_out(given.keys, "--keys")
    if "text" not in fields:
        raise UsageError(f"{given.source} has no field 'text'; {hint('text', fields)}")
    if given.copy:
        parse_target(given.copy)


def lines(report: dict[str, Any], folder: str) -> list[str]:
    """Return the report as text."""
    bad = sum(report["unreadable"].values())
    return [
        f"kept {report['kept']:,} of {report['examples']:,} pairs ({report['share_kept']:.1%}), listed in {folder}",
        f"{report['matched']:,} texts have an entry, {bad:,} cannot be read",
        f"of {report['entries']:,} entries {report['entries_without_text']:,} have no text, "
        f"{report['entries_above_t']:,} more than {report['t']:,}",
        *(f"  {row['entry']}: {row['kept']:,} of {row['texts']:,}" for row in report["most"][:5]),
    ]


def _write_keys(path: Path, curated: TakeCurated) -> None:
    examples = curated.open()
    keys = (key_of(*examples.origin(index)) for index in range(len(examples)))
    write_atomically(path, lambda file: file.writelines(f"{key}\n".encode(errors="surrogateescape") for key in keys))
    echo(f"wrote {len(examples):,} keys to {path}")
