"""Balances the pairs of a source over a list of concepts, as MetaCLIP does (Xu et al. 2024, arXiv:2309.16671).

A pair whose text holds none of the entries is dropped. An entry that more than T texts hold is sampled in each of
them with the probability T / texts, and a pair stays if one of its entries is. The pictures are not looked at. The
same command goes on with what was interrupted; another T or seed takes up the first pass as it is.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.patterns import local
from jaxrep.data.tools import curate_beam
from jaxrep.data.tools.convert import Plan as Copy
from jaxrep.data.tools.convert import convert
from jaxrep.data.tools.curate import Plan, curate
from jaxrep.data.tools.writers import FORMATS
from jaxrep.data.transforms.balance import TakeCurated, key_of
from jaxrep.disk_cache import write_atomically
from jaxrep.errors import JaxrepError, UsageError, hint


def main(args: list[str]) -> int:
    """``jaxrep data curate SOURCE --metadata FILE … --out FOLDER [--t T] [--copy KIND:FOLDER] [--keys FILE] …``"""
    given = _parser().parse_args(args)
    source = parse_source(given.source)
    _check(given, source.fields())
    many = (os.cpu_count() or 1) if given.workers is None else given.workers
    plan = Plan.of(source, tuple(given.metadata), local(given.out), given.t, given.seed, given.per_chunk)
    report = (
        curate(plan, many if len(plan.chunks) > 1 else 0)
        if given.beam is None
        else curate_beam.curate(plan, given.beam)
    )
    print("\n".join(lines(report, plan.result)))
    if not report["kept"]:
        raise JaxrepError(f"no text of {given.source} holds one of the {report['entries']:,} entries")
    curated = TakeCurated(source=source, kept=plan.result)
    if given.keys:
        _write_keys(given.keys, curated)
    if given.copy:
        kind, _, folder = given.copy.partition(":")
        copy = Copy(curated, kind, Path(folder).expanduser(), 1000, report["kept"])
        print(f"wrote {convert(copy, many if len(copy.shards) > 8 else 0)['written']:,} pairs to {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxrep data curate", description=__doc__)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="the pool (see jaxrep data --help)")
    add("--metadata", metavar="FILE", nargs="+", required=True, help="entries: a line each, or a list in JSON (.json)")
    add("--out", metavar="FOLDER", required=True, help="where counts and choices are kept: a path or URL")
    add("--t", type=int, default=20_000, metavar="T", help="texts of an entry that are all kept (default: 20000)")
    add("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    add("--copy", metavar="KIND:FOLDER", help="write the kept pairs as shards, too: tar, arrayrecord, parquet or csv")
    add("--keys", metavar="FILE", type=Path, help="write the keys of the kept pairs, a line each")
    add("--per-chunk", type=int, default=20_000, metavar="N", help="pairs worked on at a time (default: 20000)")
    add("--workers", type=int, metavar="N", help="processes; 0: this one (default: one a core if many)")
    add("--beam", nargs=argparse.REMAINDER, metavar="OPTION", help="run on Apache Beam, with these options of Beam's")
    return parser


def _check(given: argparse.Namespace, fields: dict[str, Any]) -> None:
    """Says what is wrong before the work, not after it."""
    if given.keys and (given.keys.is_dir() or not given.keys.parent.is_dir()):
        raise UsageError(f"--keys {given.keys} cannot be written: name a file in a folder that exists")
    if "text" not in fields:
        raise UsageError(f"{given.source} has no field 'text'; {hint('text', fields)}")
    for name in ("t", "per_chunk"):
        if getattr(given, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} counts pairs and is at least 1, not {getattr(given, name)}")
    if not 0 <= given.seed < 2**64:
        raise UsageError(f"--seed is a whole number from 0 to 2**64 - 1, not {given.seed}")
    kind, _, folder = (given.copy or "tar:.").partition(":")
    if kind not in FORMATS or not folder or "://" in folder:
        raise UsageError(f"{given.copy} is no local target: name kind and folder, as tar:FOLDER; {hint(kind, FORMATS)}")


def lines(report: dict[str, Any], folder: str) -> list[str]:
    """The report in words."""
    bad = sum(report["unreadable"].values())
    return [
        f"kept {report['kept']:,} of {report['examples']:,} pairs ({report['share_kept']:.1%}); {folder} says which",
        f"{report['matched']:,} texts hold an entry, {bad:,} cannot be read",
        f"of {report['entries']:,} entries {report['entries_without_text']:,} have no text, "
        f"{report['entries_above_t']:,} more than {report['t']:,}",
        *(f"  {row['entry']}: {row['kept']:,} of {row['texts']:,}" for row in report["most"][:5]),
    ]


def _write_keys(path: Path, curated: TakeCurated) -> None:
    examples = curated.open()
    keys = (key_of(*examples.origin(index)) for index in range(len(examples)))
    write_atomically(path, lambda file: file.writelines(f"{key}\n".encode(errors="surrogateescape") for key in keys))
    print(f"wrote {len(examples):,} keys to {path}")
