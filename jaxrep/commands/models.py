"""Arguments and checks that several commands share: run, checkpoint, weights and output file."""

import argparse
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jaxrep.errors import UsageError
from jaxrep.spec import Range
from jaxrep.storage import check_out as check_out

if TYPE_CHECKING:
    from jaxrep.mesh import Mesh
    from jaxrep.model import Model
    from jaxrep.recipe import Recipe

N = TypeVar("N", int, float)


def number(low: N, high: float = 2**31 - 1) -> Callable[[str], N]:
    """Return the type of an argument: a number from ``low`` to ``high``, whole if ``low`` is whole."""
    expected = f"expected a {'whole ' * isinstance(low, int)}number {Range(low, high)}"

    def parse(text: str) -> N:
        with contextlib.suppress(ValueError):
            if not Range(low, high).problem(value := type(low)(text)):
                return value
        raise argparse.ArgumentTypeError(f"{expected}, got {text[:40]!r}")

    return parse


def add_arguments(
    parser: argparse.ArgumentParser, name: str = "RUN", help: str = "a run directory", option: str = ""
) -> None:
    """Add RUN (or the required ``option``), --checkpoint, --weights and --trust, which ``load`` reads."""
    place = {"dest": "run", "required": True} if option else {}
    parser.add_argument(option or "run", metavar=name, type=folder, help=help, **place)
    parser.add_argument("--checkpoint", choices=("latest", "best"), default="latest", help="(default: latest)")
    parser.add_argument(
        "--weights",
        choices=("auto", "raw", "ema"),
        default="auto",
        help="raw or averaged weights; auto: those of the run's evaluations (default)",
    )
    add_trust(parser)


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Add --batch-size."""
    what = "examples that are encoded at a time (default: 256, for public checkpoints 64)"
    parser.add_argument("--batch-size", type=number(1), metavar="N", help=what)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add --trust."""
    parser.add_argument("--trust", action="store_true", help="execute the code that came with a run of somebody else")


def trust_runs(given: argparse.Namespace, runs: Iterable[str | Path]) -> None:
    """Trust the code of some runs if --trust is given."""
    if given.trust:
        from jaxrep.experiment import trust_run

        for run in runs:
            trust_run(run)


def folder(run: str) -> Path:
    """Return the folder of a run; a run behind a URL is copied first.

    Raises:
        JaxrepError: there is no run behind the URL, or it cannot be read.
    """
    if "://" not in run:
        return Path(run)
    from jaxrep.runs.remote import fetch_run

    return fetch_run(run)


def load(given: argparse.Namespace, mesh: "Mesh | None" = None) -> "tuple[Model, Recipe | None]":
    """Return the model that the arguments name, over the devices of a mesh, and the recipe of its run.

    A public checkpoint has no recipe. Raises UsageError: it has no ``--checkpoint`` and no ``--weights`` either.
    """
    from jaxrep.pretrained.load import is_checkpoint, load_checkpoint
    from jaxrep.runs.restore import load_run

    if is_checkpoint(given.run):
        refuse_run_options(given)
        return load_checkpoint(given.run, mesh), None
    trust_runs(given, [given.run])
    model, recipe = load_run(given.run, given.weights, given.checkpoint)
    return model.shard(mesh) if mesh else model, recipe


def refuse_run_options(given: argparse.Namespace) -> None:
    """Raise UsageError if options of a run are given for a public checkpoint."""
    if (given.checkpoint, given.weights) != ("latest", "auto"):
        raise UsageError(f"--checkpoint and --weights apply to a run, and {given.run} is a public checkpoint")
