"""Convert a source to tar, ArrayRecord or Parquet files, or to folders of images with a table (csv).

Images and captions are copied as they are stored. Unreadable examples are left out and counted. Run the same command
again to continue an interrupted conversion.
"""

import sys
from pathlib import Path

from jaxrep.commands.data import add_workers, check_readable, choose_workers, parse_target, tool_parser
from jaxrep.commands.models import number
from jaxrep.commands.output import echo
from jaxrep.data.source_string import parse_source
from jaxrep.data.tools.convert import Plan, convert
from jaxrep.data.tools.writers import FORMATS


def main(args: list[str]) -> int:
    """Run ``jaxrep data convert SOURCE KIND:FOLDER [--per-shard N] [--workers N]``."""
    parser = tool_parser("convert", __doc__)
    parser.add_argument("target", metavar="KIND:FOLDER", help=f"format ({', '.join(FORMATS)}) and folder to write")
    parser.add_argument(
        "--per-shard", type=number(1), default=1000, metavar="N", help="examples per shard (default: 1000)"
    )
    add_workers(parser)
    given = parser.parse_args(args)
    kind, folder = parse_target(given.target)
    source = parse_source(given.source)
    plan = Plan(source, kind, Path(folder), given.per_shard, len(source.open()))
    result = convert(plan, choose_workers(given.workers, len(plan.shards) > 8))
    echo(f"wrote {result['written']:,} of {result['all']:,} examples to {folder}")
    for reason, count in result["bad"].items():
        echo(f"{count:,} unreadable: {reason}", file=sys.stderr)
    for message in result["bad_examples"]:
        echo(f"  {message}", file=sys.stderr)
    check_readable(result["written"], given.source)
    return 0
