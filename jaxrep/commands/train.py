"""Train a recipe, or resume its run in the run directory."""

import argparse
import logging
from pathlib import Path

from jaxrep.commands.recipes import override
from jaxrep.errors import UsageError
from jaxrep.experiment import LoadedExperiment, load


def main(args: list[str]) -> int:
    """Run ``jaxrep train NAME[:PRESET] [--run-dir DIR] [--field.path VALUE ...]``."""
    about = argparse.ArgumentParser(
        prog="jaxrep train",
        description=__doc__,
        usage="jaxrep train NAME[:PRESET] [--run-dir DIR] [--field.path VALUE ...]",
        epilog="jaxrep train NAME[:PRESET] --help lists the recipe's fields.",
    )
    about.add_argument(
        "recipe",
        metavar="NAME[:PRESET]",
        help="an experiment (a short name as clip, or FILE.py), and one of its presets (default: recipe)",
    )
    loaded = load(about.parse_args(args[:1]).recipe)

    options = argparse.ArgumentParser(prog="jaxrep train", add_help=False, allow_abbrev=False)
    options.add_argument("--run-dir", type=run_dir, default=default_run_dir(loaded))
    given, fields = options.parse_known_args(args[1:])
    where = f"--run-dir DIR: directory or URL (gs://BUCKET/RUN) of the run, which is resumed (default: {given.run_dir})"
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
    """Return the directory or URL of a flag.

    An empty one is refused: it is an unset variable of a script, not the current folder.
    """
    if not given:
        raise UsageError("--run-dir is empty: name a directory")
    return given if "://" in given else Path(given)


def default_run_dir(loaded: LoadedExperiment) -> Path:
    """Return ``runs/clip-tiny`` for the preset ``tiny`` of ``clip.py``."""
    return Path("runs") / f"{loaded.path.stem}-{loaded.name}"
