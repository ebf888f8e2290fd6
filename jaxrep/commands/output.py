"""Print text that comes from files: control characters are escaped, and brackets are no markup."""

import sys
from typing import Any

from rich.console import Console

from jaxrep.errors import printable

WIDTH = 200
"""Characters per line of a table if the output is no terminal."""


def echo(text: str, file: Any = None) -> None:
    """Print lines of text; ``file`` is standard output, as it is at the time, if it is not given."""
    print(printable(text), file=file, flush=file is not None)


def one_line(text: str) -> str:
    """Return a text from a file for the cell of a table."""
    return printable(text).replace("\n", "\\n")


def console() -> Console:
    """Return standard output for tables and trees."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False, emoji=False)
