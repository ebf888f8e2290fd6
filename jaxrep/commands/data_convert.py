"""Rewrites a source as tars, ArrayRecord or Parquet files, or as folders of pictures with a table (csv).

Pictures and captions are copied as they are stored; what cannot be read is left out and counted. The same command goes
on with a conversion that was interrupted.
"""

import argparse
import os
import sys
from pathlib import Path

from jaxrep.data.source_string import parse_source
from jaxrep.data.tools.convert import Plan, convert
from jaxrep.data.tools.writers import FORMATS
from jaxrep.errors import JaxrepError, UsageError, hint


def main(args: list[str]) -> int:
    """``jaxrep data convert SOURCE KIND:FOLDER [--per-shard N] [--workers N]``"""
    parser = argparse.ArgumentParser(prog="jaxrep data convert", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="what to read (see jaxrep data --help)")
    parser.add_argument("target", metavar="KIND:FOLDER", help=f"what to write: {', '.join(FORMATS)}, and where")
    parser.add_argument("--per-shard", type=int, default=1000, metavar="N", help="examples of a shard (default: 1000)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; 0: this one (default: one a core if many)")
    given = parser.parse_args(args)
    kind, _, folder = given.target.partition(":")
    if kind not in FORMATS or not folder or "://" in given.target:
        raise UsageError(
            f"{given.target} is no local target: name kind and folder, as tar:FOLDER; {hint(kind, FORMATS)}"
        )
    if given.per_shard < 1:
        raise UsageError(f"--per-shard counts examples and is at least 1, not {given.per_shard}")
    source = parse_source(given.source)
    plan = Plan(source, kind, Path(folder).expanduser(), given.per_shard, len(source.open()))
    many = (os.cpu_count() or 1) if len(plan.shards) > 8 else 0
    found = convert(plan, many if given.workers is None else given.workers)
    print(f"wrote {found['written']:,} of {found['all']:,} examples to {folder}")
    for reason, count in found["bad"].items():
        print(f"{count:,} left out: {reason}", file=sys.stderr)
    print(*(f"  {told}" for told in found["bad_examples"]), sep="\n", end="\n" * bool(found["bad"]), file=sys.stderr)
    if not found["written"]:
        raise JaxrepError(f"no example of {given.source} can be read")
    return 0
