"""Decodes every example of a source: how many can be read, why others cannot, their sizes and captions."""

import argparse
import json
from pathlib import Path
from typing import Any

from jaxrep.commands.models import check_out
from jaxrep.data.source_string import parse_source
from jaxrep.data.tools.survey import grid, survey
from jaxrep.storage import write_file


def main(args: list[str]) -> int:
    """``jaxrep data inspect SOURCE [--json] [--grid FILE.png]``"""
    parser = argparse.ArgumentParser(prog="jaxrep data inspect", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="what to read (see jaxrep data --help)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--grid", metavar="FILE", type=Path, help="write 64 pictures, evenly spread, as a PNG")
    given = parser.parse_args(args)
    check_out(given.grid)
    found = survey(parse_source(given.source).open())
    if given.grid:
        write_file(str(given.grid), _png(found.pictures))
    print(json.dumps(found.summary, indent=1) if given.json else "\n".join(lines(found.summary)))
    return 0


def _png(pictures: Any) -> bytes:
    import io

    file = io.BytesIO()
    grid(pictures).save(file, "PNG")
    return file.getvalue()


def lines(summary: dict[str, Any]) -> list[str]:
    """The summary in words."""
    bad = summary["all"] - summary["examples"]
    text = [f"{summary['examples']:,} of {summary['all']:,} examples can be read, in {summary['shards']:,} shards"]
    text += [f"  {count:,} cannot: {reason}" for reason, count in summary["bad"].items()]
    text += [f"    {told}" for told in summary["bad_examples"]]
    if bad > len(summary["bad_examples"]):
        text.append(f"    … and {bad - len(summary['bad_examples']):,} more")
    for name, value in summary.items():
        if isinstance(value, dict) and name != "bad":
            text.append(f"{name}: " + ", ".join(f"{key} {number:g}" for key, number in value.items()))
        elif name.startswith("distinct_"):
            text.append(f"{name.replace('_', ' ', 1)}: {value:,}")
    return text
