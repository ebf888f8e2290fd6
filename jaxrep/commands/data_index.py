"""Index tars once, so that their examples are read in any order. Run the command again to continue if interrupted."""

import sys

from jaxrep.commands.data import add_workers, choose_workers, tool_parser
from jaxrep.commands.output import echo
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.tar.manifest import FEW, index_shards
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import UsageError


def main(args: list[str]) -> int:
    """Run ``jaxrep data index SOURCE [--beside] [--workers N]``."""
    parser = tool_parser("index", __doc__, "tars, such as train-{000..999}.tar")
    parser.add_argument("--beside", action="store_true", help="keep the index beside the shards instead of the cache")
    add_workers(parser)
    given = parser.parse_args(args)
    source = parse_source(given.source)
    if not isinstance(source, TarShards):
        raise UsageError(f"{given.source} needs no index: only tars do")
    paths = files(source.shards)
    workers = choose_workers(given.workers, len(paths) > FEW)
    shards = index_shards(paths, beside=given.beside, workers=workers, check=True)
    summaries = [shard.summary for shard in shards]
    damage = [(path, text) for path, summary in zip(paths, summaries, strict=True) for text in summary.damage]
    count = sum(summary.count_examples(list(source.extensions().values())) for summary in summaries) - len(damage)
    size = sum(summary.size for summary in summaries) / 2**30
    echo(f"{len(paths):,} shards have {count:,} examples in {size:.3g} GiB")
    for path, text in damage:
        echo(f"{path}: {text}", file=sys.stderr)
    return 0
