"""Run the ``jaxrep`` program: the first word names a command, whose module is imported only then."""

import importlib
import io
import itertools
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence

from jaxrep import __version__, signals
from jaxrep.commands.memory import with_large_pages
from jaxrep.errors import JaxrepError, UsageError, hint, memory_fault, printable

COMMANDS = {
    "train": "train a recipe, or resume its run",
    "eval": "evaluate the model of a run or of a public checkpoint",
    "embed": "embed images or texts",
    "export": "export the model of a run for transformers or open_clip",
    "data": "inspect, index, convert, benchmark and deduplicate data",
    "plan": "plan a training step without the devices: memory, FLOPs, collectives, time",
    "bench": "measure a training step on synthetic batches: speed, utilization, memory",
    "list": "list the experiments and their presets",
    "show": "show a resolved recipe, its parameters and FLOPs",
    "diff": "show the differences of two recipes or runs",
    "compare": "compare results of runs: means over seeds, intervals, paired tests",
    "report": "write an HTML page of runs: curves, tables, images, embedding space",
    "env": "print versions, devices, caches and extras for a bug report",
}

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells: 128 and the number of the signal."""

_SHARD = r"(.*?)(\d+)(\.(?:tar|parquet|csv|tsv|jsonl|array_record|tfrecord)(?:\.gz|\.zst)?(?:,.*)?)"
"""Names of numbered files of data, which no command takes one by one."""

PREEMPTED = 75
"""Exit status of a command that a signal stopped and that resumes: EX_TEMPFAIL, on which schedulers requeue."""

UNREAD = 141
"""Exit status if the reader closed the output, as ``| head`` does: 128 and the number of SIGPIPE."""


def usage() -> str:
    """Return the text of ``jaxrep --help``."""
    lines = [f"  {name:<7} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxrep COMMAND ...",
            "",
            "Large-scale contrastive pretraining of representations in JAX and Flax.",
            "",
            *lines,
            "",
            "jaxrep COMMAND --help explains a command; jaxrep train EXPERIMENT --help lists every field to change.",
        ]
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    A user's mistake is one sentence. A bug keeps its traceback and asks for a report.
    """
    if args is None and sys.argv[1:2] == ["train"]:
        with_large_pages()
    log_to_stderr()
    for stream in (sys.stdout, sys.stderr):  # they print names of files, which need not be Unicode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = list(sys.argv[1:] if args is None else args)
    try:
        with signals.stop_on_signals():
            return _run_and_report(args)
    except signals.Stopped as stopped:  # while an error was reported
        return _stopped_by(stopped.number, args)


def _run_and_report(args: list[str]) -> int:
    try:
        status = run(args)
        sys.stdout.flush()  # an error of the output is reported here
        return status
    except JaxrepError as error:
        if number := signals.received():  # its exception was dropped, and led to this error
            return _stopped_by(number, args)
        print(f"jaxrep: error: {printable(str(error))}", file=sys.stderr)
        return error.status
    except signals.Stopped as stopped:
        return _stopped_by(stopped.number, args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough; Python flushes once more as it leaves
        _discard_output()
        return UNREAD
    except Exception as error:
        if isinstance(error, OSError) and _output_failed(error):
            _discard_output()
            print(f"jaxrep: error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        elif words := memory_fault(error):
            print(f"jaxrep: error: the devices have too little memory: {printable(words)}", file=sys.stderr)
        else:
            print(printable(traceback.format_exc()), file=sys.stderr, end="")
            print(f"jaxrep: {_cause(error)}", file=sys.stderr)
        return JaxrepError.status


def _cause(error: Exception) -> str:
    """Say below a traceback whether the user's own code or jaxrep is at fault."""
    from jaxrep.user_modules import place_of

    if place := place_of(error):
        return f"error: {place}: {type(error).__name__}: {printable(str(error))}"
    return "this is a bug: please report it with the output of `jaxrep env`"


def _stopped_by(number: int, args: Sequence[str]) -> int:
    """Return the exit status of a command that a signal stopped; say so if the same command goes on."""
    resumable = args[:1] in (["train"], ["embed"]) or args[:2] == ["data", "score"]
    if resumable:
        words = "stopped; what is saved is kept, and the same command goes on from there"
        print(f"jaxrep: {signal.Signals(number).name}: {words}", file=sys.stderr)
    return PREEMPTED if resumable and number != signal.SIGINT else 128 + number


def _output_failed(error: OSError) -> bool:
    """Return whether an error is that of standard output: it names no file, and a line cannot be written there."""
    if error.filename is not None:
        return False
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class StderrHandler(logging.StreamHandler):
    """Write log messages to standard error as it is at the time, which a progress bar may have redirected."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:
        """Return a message with what is not printable escaped."""
        return printable(super().format(record))

    @property
    def stream(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """Standard error."""
        return sys.stderr


def log_to_stderr() -> None:
    """Print the messages of jaxrep's logger to standard error."""
    logger = logging.getLogger("jaxrep")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # libraries give the root logger a handler, which would print each line again
    if not any(isinstance(handler, StderrHandler) for handler in logger.handlers):
        logger.addHandler(StderrHandler())


def run(args: list[str]) -> int:
    """Run the command that ``args`` names."""
    if not args:
        raise UsageError(f"a command is missing; {hint('', COMMANDS)}; see jaxrep --help")
    if args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(f"jaxrep {__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise UsageError(f"there is no command {args[0]!r}; {hint(args[0], COMMANDS)}")
    _refuse_expanded_braces(args)
    return importlib.import_module(f"jaxrep.commands.{args[0]}").main(args[1:])


def _refuse_expanded_braces(args: list[str]) -> None:
    """Raise UsageError for the files of a pattern that the shell expanded: ``pairs-{0..9}.tar`` without quotes."""
    words = [re.fullmatch(_SHARD, word) for word in args]
    for first, second in itertools.pairwise(words):
        if first and second and first.group(1, 3) == second.group(1, 3) and int(first[2]) + 1 == int(second[2]):
            last = [word[2] for word in words if word and word.group(1, 3) == first.group(1, 3)][-1]
            pattern = f"{first[1]}{{{first[2]}..{last}}}{first[3]}"
            raise UsageError(
                f"the shell expanded a pattern into {first[0]}, {second[0]}, ...: quote it, as '{pattern}'"
            )


if __name__ == "__main__":
    sys.exit(main())
