"""Looks at data, indexes, converts, measures them: one command a tool."""

import importlib

from jaxrep.data.source_string import FORMS
from jaxrep.errors import UsageError, hint

TOOLS = {
    "index": "index the shards of tars once: in parallel, resumed where it was interrupted",
    "inspect": "decode every example; count what cannot be read, sizes and captions; draw a grid",
    "convert": "rewrite as tar, ArrayRecord, Parquet, or a folder with a table",
    "tokenizer": "train a BPE or WordPiece tokenizer on the captions",
    "bench": "examples a second, by stage",
    "curate": "balance pairs over a list of concepts, as MetaCLIP does",
    "dedup": "find equal and nearly equal pictures, also those that another data set has",
}


def usage() -> str:
    """What ``jaxrep data --help`` prints."""
    tools = "\n".join(f"  {name:<9} {what}" for name, what in TOOLS.items())
    return (
        f"usage: jaxrep data TOOL …\n\n{__doc__}\n\n{tools}\n\n"
        f"A SOURCE is {FORMS},\nlocal or remote (gs://, s3://, https://), followed by fields of its spec: "
        "tar:x-*.tar,text=caption,image=jpg+png.\n"
        "The kind may be left out where the path's ending tells it. jaxrep data TOOL --help says more."
    )


def main(args: list[str]) -> int:
    """``jaxrep data TOOL …``"""
    if not args:
        raise UsageError(f"a tool is missing; {hint('', TOOLS)}; jaxrep data --help says more")
    if args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] not in TOOLS:
        raise UsageError(f"there is no tool {args[0]!r}; {hint(args[0], TOOLS)}")
    return importlib.import_module(f"jaxrep.commands.data_{args[0]}").main(args[1:])
