"""Trains a recipe, or goes on with the run of it that the run directory holds."""

import argparse
import logging
from pathlib import Path

from jaxrep.commands.recipes import override
from jaxrep.errors import UsageError
from jaxrep.experiment import LoadedExperiment, load


def main(args: list[str]) -> int:
    """``jaxrep train FILE[:NAME] [--run-dir DIR] [--field.path VALUE …]``"""
    about = argparse.ArgumentParser(
        prog="jaxrep train",
        description=__doc__,
        usage="jaxrep train FILE[:NAME] [--run-dir DIR] [--field.path VALUE ...]",
        epilog="jaxrep train FILE[:NAME] --help lists the recipe's fields.",
    )
    about.add_argument("recipe", metavar="FILE[:NAME]", help="an experiment, and one of its presets (recipe)")
    loaded = load(about.parse_args(args[:1]).recipe)

    options = argparse.ArgumentParser(prog="jaxrep train", add_help=False, allow_abbrev=False)
    options.add_argument("--run-dir", type=run_dir, default=default_run_dir(loaded))
    given, fields = options.parse_known_args(args[1:])
    where = f"--run-dir DIR: where the run is kept, and found again; gs://BUCKET/RUN, too (default: {given.run_dir})"
    loaded = override(loaded, fields, f"jaxrep train {args[0]}", where)

    from jaxrep import hosts
    from jaxrep.evals.base import format_results
    from jaxrep.runs.exit_codes import ExitCode
    from jaxrep.runs.run import Run
    from jaxrep.training.compilation import enable_compilation_cache
    from jaxrep.training.failures import propagate_failures
    from jaxrep.training.loop import train

    hosts.initialize()
    enable_compilation_cache()
    if not hosts.is_main():
        logging.getLogger("jaxrep").setLevel(logging.WARNING)
    with propagate_failures():
        status = train(loaded.recipe, given.run_dir, loaded)
    if status is ExitCode.DONE and hosts.is_main():
        run = Run(given.run_dir, status)
        print(format_results(run.results))
        print(f"finished; the run directory is {given.run_dir}")
    return int(status)


def run_dir(given: str) -> str | Path:
    """The directory or URL that a flag names; an empty one is an unset variable of a script, not the current folder."""
    if not given:
        raise UsageError("--run-dir is empty: name a directory")
    return given if "://" in given else Path(given)


def default_run_dir(loaded: LoadedExperiment) -> Path:
    """``runs/clip-tiny`` for the preset tiny of experiments/clip.py."""
    return Path("runs") / f"{loaded.path.stem}-{loaded.name}"
