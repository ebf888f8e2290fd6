"""Indexes tars once, so that their examples are read in any order. It goes on where it was interrupted."""

import argparse
import os
import sys

from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.tar.manifest import FEW, index_shards
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import UsageError


def main(args: list[str]) -> int:
    """``jaxrep data index SOURCE [--beside] [--workers N]``"""
    parser = argparse.ArgumentParser(prog="jaxrep data index", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="tars: train-{000..999}.tar, or a URL")
    parser.add_argument("--beside", action="store_true", help="keep the index beside the shards, not in the cache")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read; 0: threads of one (default: one a core if many)"
    )
    given = parser.parse_args(args)
    source = parse_source(given.source)
    if not isinstance(source, TarShards):
        raise UsageError(f"{given.source} needs no index: only tars do")
    paths = files(source.shards)
    workers = ((os.cpu_count() or 1) if len(paths) > FEW else 0) if given.workers is None else given.workers
    rows = [row for _, row in index_shards(paths, beside=given.beside, workers=workers, check=True)]
    extensions = list(source.extensions().values())
    damage = [(path, told) for path, row in zip(paths, rows, strict=True) for told in row.damage]
    count = sum(row.count(extensions) for row in rows) - len(damage)
    print(f"{len(paths):,} shards hold {count:,} examples in {sum(row.facts.size for row in rows) / 2**30:.3g} GiB")
    for path, told in damage:
        print(f"{path}: {told}", file=sys.stderr)
    return 0
