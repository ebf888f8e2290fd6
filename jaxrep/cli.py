"""Run the ``jaxrep`` program: the first word names a command, whose module is imported only then."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from jaxrep import __version__
from jaxrep.commands.memory import with_large_pages
from jaxrep.errors import JaxrepError, UsageError, hint

COMMANDS = {
    "train": "train a recipe, or go on with its run",
    "eval": "measure the model of a run",
    "embed": "embed images or texts with the model of a run",
    "export": "write the model of a run for transformers or open_clip",
    "data": "look at data, index, convert, measure them, find duplicates",
    "plan": "plan a training step: memory, FLOPs, collectives, time, without the devices",
    "list": "list the experiments of a folder and their presets",
    "show": "show a resolved recipe, its parameters and FLOPs",
    "diff": "show where two recipes or runs differ",
    "compare": "compare the results of runs: means over seeds, intervals, paired tests",
    "report": "write a page of runs: curves, tables, pictures, the space",
}

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of the signal."""

UNREAD = 141
"""Exit status where the output was closed before its end, as of ``| head``; likewise, of SIGPIPE."""


def usage() -> str:
    """Return the text of ``jaxrep --help``."""
    lines = [f"  {name:<7} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxrep COMMAND …",
            "",
            "Large-scale contrastive pretraining of representations in JAX and Flax.",
            "",
            *lines,
            "",
            "jaxrep COMMAND --help says more; jaxrep train FILE --help lists every field that can be changed.",
        ]
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. A user's mistake is one sentence; a bug keeps its traceback."""
    if args is None and sys.argv[1:2] == ["train"]:
        with_large_pages()
    log_to_stderr()
    try:
        status = run(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()  # what fails here is told here
        return status
    except JaxrepError as error:
        print(f"jaxrep: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough; Python flushes once more as it leaves
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


class StderrHandler(logging.StreamHandler):
    """Write log messages to standard error as it is at the time, which a progress bar may have redirected."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """Standard error."""
        return sys.stderr


def log_to_stderr() -> None:
    """Print the messages of jaxrep's logger to standard error."""
    logger = logging.getLogger("jaxrep")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, StderrHandler) for handler in logger.handlers):
        logger.addHandler(StderrHandler())


def run(args: list[str]) -> int:
    """Run the command that ``args`` names."""
    if not args:
        raise UsageError(f"a command is missing; {hint('', COMMANDS)}; jaxrep --help says more")
    if args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(f"jaxrep {__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise UsageError(f"there is no command {args[0]!r}; {hint(args[0], COMMANDS)}")
    return importlib.import_module(f"jaxrep.commands.{args[0]}").main(args[1:])


if __name__ == "__main__":
    sys.exit(main())
