"""Inspect, index, convert and measure data."""

import argparse
import importlib
import os

from jaxrep.commands.models import number
from jaxrep.data._util.parallel import usable_cores
from jaxrep.data.source_string import FORMS
from jaxrep.data.tools.writers import FORMATS
from jaxrep.errors import JaxrepError, UsageError, hint

TOOLS = {
    "index": "index the shards of tars once, in parallel",
    "inspect": "decode every example; report unreadable ones, sizes and captions; draw a grid of images",
    "convert": "convert to tar, ArrayRecord, Parquet, or a folder with a table",
    "tokenizer": "train a BPE or WordPiece tokenizer on the captions",
    "bench": "measure the examples per second of each stage",
    "curate": "balance pairs over a list of concepts, as MetaCLIP does",
    "score": "score pairs by a model, for filters",
    "dedup": "find equal and nearly equal images, also those that another data set has",
}

MAX_WORKERS = 1024
"""Largest number of processes or threads."""


def usage() -> str:
    """Return what ``jaxrep data --help`` prints."""
    tools = "\n".join(f"  {name:<9} {what}" for name, what in TOOLS.items())
    return (
        f"usage: jaxrep data TOOL …\n\n{__doc__}\n\n{tools}\n\n"
        f"A SOURCE is {FORMS},\nlocal or remote (gs://, s3://, https://), followed by fields of its spec: "
        "tar:x-*.tar,text=caption,image=jpg+png.\n"
        "The kind may be omitted if the path's extension implies it. Options of a tool: jaxrep data TOOL --help."
    )


def main(args: list[str]) -> int:
    """Run ``jaxrep data TOOL …``."""
    if not args:
        raise UsageError(f"a tool is missing; {hint('', TOOLS)}; see jaxrep data --help")
    if args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] not in TOOLS:
        raise UsageError(f"there is no tool {args[0]!r}; {hint(args[0], TOOLS)}")
    return importlib.import_module(f"jaxrep.commands.data_{args[0]}").main(args[1:])


def tool_parser(tool: str, description: str | None, source: str = "data to read") -> argparse.ArgumentParser:
    """Return a parser of a tool's arguments, with its SOURCE."""
    parser = argparse.ArgumentParser(prog=f"jaxrep data {tool}", description=description)
    parser.add_argument("source", metavar="SOURCE", help=f"{source} (see jaxrep data --help)")
    return parser


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--workers``."""
    what = "processes; 0: this process (default: one per core for large data)"
    parser.add_argument("--workers", type=number(0, MAX_WORKERS), metavar="N", help=what)


def choose_workers(given: int | None, large: bool) -> int:
    """Return the number of processes: as given, or one per core for large data, else 0."""
    return (usable_cores() if large else 0) if given is None else given


def parse_target(target: str) -> tuple[str, str]:
    """Split KIND:FOLDER. Raises UsageError: the kind is unknown, or the folder is not local."""
    kind, _, folder = target.partition(":")
    if kind not in FORMATS or not folder or "://" in target:
        raise UsageError(f"{target} is no local target: give kind and folder, as tar:FOLDER; {hint(kind, FORMATS)}")
    return kind, os.path.expanduser(folder)


def check_readable(count: int, source: str) -> None:
    """Check that some examples of a source could be read. Raises JaxrepError."""
    if not count:
        raise JaxrepError(f"no example of {source} can be read")
