"""What commands on the model of a run share: which checkpoint and which weights."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrep.errors import UsageError

if TYPE_CHECKING:
    from jaxrep.model import Model
    from jaxrep.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser, name: str = "RUN", told: str = "a run directory") -> None:
    """RUN, --checkpoint and --weights, which ``load`` reads."""
    parser.add_argument("run", metavar=name, type=folder, help=told)
    parser.add_argument("--checkpoint", choices=("latest", "best"), default="latest", help="(default: latest)")
    parser.add_argument(
        "--weights",
        choices=("auto", "raw", "ema"),
        default="auto",
        help="raw or averaged; auto: those that the run's own evaluations use (default)",
    )


def folder(run: str) -> Path:
    """The folder of a run that an argument names: itself, or a copy of one that lies behind a URL.

    Raises JaxrepError where that is none, or cannot be read.
    """
    if "://" not in run:
        return Path(run)
    from jaxrep.runs.remote import fetch_run

    return fetch_run(run)


def load(given: argparse.Namespace) -> "tuple[Model, Recipe]":
    """The model that the arguments name, and the recipe of its run."""
    from jaxrep.runs.restore import load_run

    return load_run(given.run, given.weights, given.checkpoint)


def check_out(path: Path | None) -> None:
    """That a file can be written at ``path``: said before the work, not after it. Raises UsageError."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        wrong = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"--out {path} cannot be written: {wrong}")
