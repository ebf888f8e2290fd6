"""Run the examples of a Markdown page in their order, in the current folder."""

import itertools
import re
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from jaxrep import cli

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAVE = re.compile(r"Save this file as\s+`([\w/]+\.py)`")


@dataclass(frozen=True)
class Block:
    """Hold one fenced block of a page."""

    language: str
    text: str
    file: str
    """Name under which the page says to save it; empty: it is run."""

    @property
    def commands(self) -> list[str]:
        """The calls of the program in a block of commands."""
        lines = self.text.splitlines() if not self.language else []
        return [line for line in lines if line.startswith("jaxrep ")]


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page of the checkout."""
    text, end, found = (ROOT / page).read_text(), 0, []
    for fence in FENCE.finditer(text):
        saved = SAVE.findall(text[end : fence.start()])
        found.append(Block(fence[1], fence[2], saved[-1] if saved and fence[1] == "python" else ""))
        end = fence.end()
    return found


def one_device(patch: pytest.MonkeyPatch) -> None:
    """Hide all devices but the first, as on a laptop."""
    first = jax.devices()[:1]
    patch.setattr(jax, "devices", lambda *_: first)
    patch.setattr(jax, "device_count", lambda *_: 1)


class Reader:
    """Follow the pages: save files, run Python and commands. Python blocks share one module."""

    numbers = itertools.count()

    def __init__(self, name: str):
        self.module = types.ModuleType(f"page_{name}_{next(self.numbers)}")
        sys.modules[self.module.__name__] = self.module  # annotations of its classes are looked up there

    def read(self, block: Block) -> None:
        """Save or run one block of Python."""
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, self.module.__name__, "exec"), vars(self.module))

    def command(self, line: str, *more: str) -> None:
        """Run a command, with more arguments after its own."""
        status = cli.main([*shlex.split(line, comments=True)[1:], *more])
        assert status == 0, f"{line} ended with {status}"
