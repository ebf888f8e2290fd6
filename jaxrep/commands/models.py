"""Arguments and checks that several commands share: run, checkpoint, weights and output file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrep.errors import UsageError

if TYPE_CHECKING:
    from jaxrep.model import Model
    from jaxrep.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser, name: str = "RUN", help: str = "a run directory") -> None:
    """Add RUN, --checkpoint and --weights, which ``load`` reads."""
    parser.add_argument("run", metavar=name, type=folder, help=help)
    parser.add_argument("--checkpoint", choices=("latest", "best"), default="latest", help="(default: latest)")
    parser.add_argument(
        "--weights",
        choices=("auto", "raw", "ema"),
        default="auto",
        help="raw or averaged weights; auto: those of the run's evaluations (default)",
    )


def folder(run: str) -> Path:
    """Return the folder of a run; a run behind a URL is copied first.

    Raises:
        JaxrepError: there is no run behind the URL, or it cannot be read.
    """
    if "://" not in run:
        return Path(run)
    from jaxrep.runs.remote import fetch_run

    return fetch_run(run)


def load(given: argparse.Namespace) -> "tuple[Model, Recipe]":
    """Return the model that the arguments name, and the recipe of its run."""
    from jaxrep.runs.restore import load_run

    return load_run(given.run, given.weights, given.checkpoint)


def check_out(path: Path | None) -> None:
    """Check before the work that a file can be written at ``path``.

    Raises:
        UsageError: it cannot.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        wrong = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"--out {path} cannot be written: {wrong}")
