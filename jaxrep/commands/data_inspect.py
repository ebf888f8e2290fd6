"""Decode every example of a source: count the readable ones, and report why others fail, sizes and captions."""

import io
import json
from pathlib import Path
from typing import Any

from jaxrep.commands.data import check_readable, tool_parser
from jaxrep.commands.models import check_out
from jaxrep.commands.output import echo
from jaxrep.data.source_string import parse_source
from jaxrep.data.tools.survey import grid, survey
from jaxrep.storage import write_file


def main(args: list[str]) -> int:
    """Run ``jaxrep data inspect SOURCE [--json] [--grid FILE.png]``."""
    parser = tool_parser("inspect", __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--grid", metavar="FILE", type=Path, help="write 64 evenly spaced images as a PNG")
    given = parser.parse_args(args)
    check_out(given.grid, "--grid")
    summary, images = survey(parse_source(given.source).open())
    if given.grid:
        file = io.BytesIO()
        grid(images).save(file, "PNG")
        write_file(str(given.grid), file.getvalue())
    echo(json.dumps(summary, indent=1) if given.json else "\n".join(lines(summary)))
    check_readable(summary["examples"], given.source)
    return 0


def lines(summary: dict[str, Any]) -> list[str]:
    """Return the summary as text."""
    text = [f"{summary['examples']:,} of {summary['all']:,} examples can be read, in {summary['shards']:,} shards"]
    text += [f"  {count:,} unreadable: {reason}" for reason, count in summary["bad"].items()]
    text += [f"    {message}" for message in summary["bad_examples"]]
    if more := summary["all"] - summary["examples"] - len(summary["bad_examples"]):
        text.append(f"    … and {more:,} more")
    for name, value in summary.items():
        if isinstance(value, dict) and name != "bad":
            text.append(f"{name}: " + ", ".join(f"{key} {number:g}" for key, number in value.items()))
        elif name.startswith("distinct_"):
            text.append(f"{name.replace('_', ' ', 1)}: {value:,}")
    return text
