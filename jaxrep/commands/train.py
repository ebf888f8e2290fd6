"""Train a recipe, or resume its run in the run directory."""

import argparse
import gc
import logging
from pathlib import Path

from jaxrep.commands.models import add_trust
from jaxrep.commands.output import echo
from jaxrep.commands.recipes import EXPERIMENT, override, split
from jaxrep.errors import UsageError
from jaxrep.experiment import LoadedExperiment, load


def main(args: list[str]) -> int:
    """Run ``jaxrep train EXPERIMENT [--run-dir DIR] [--field.path VALUE ...]``.

    Until all is compiled Python does not look for garbage: imports and tracing make many objects, and nearly all stay.
    """
    gc.disable()
    try:
        return _train(args)
    finally:
        gc.enable()


def _train(args: list[str]) -> int:
    options = argparse.ArgumentParser("jaxrep train", description=__doc__, add_help=False, allow_abbrev=False)
    where = "directory or URL (gs://BUCKET/RUN) of the run, which is resumed"
    options.add_argument("--run-dir", metavar="DIR", type=run_dir, help=f"{where} (default: runs/NAME-PRESET)")
    add_trust(options)
    target, given, fields = split(args, options, EXPERIMENT)
    loaded = load(target)
    place = given.run_dir or default_run_dir(loaded)
    loaded = override(loaded, fields, f"jaxrep train {target}", f"--run-dir DIR: {where} (default: {place})")

    from jaxrep import hosts
    from jaxrep.evals.base import format_results
    from jaxrep.runs.exit_codes import ExitCode
    from jaxrep.runs.run import Run
    from jaxrep.training.compilation import enable_compilation_cache
    from jaxrep.training.failures import propagate_failures
    from jaxrep.training.loop import train
    from jaxrep.training.stopwatch import Stopwatch, launch_of_process
    from jaxrep.training.warm_start import trust_code

    stopwatch = Stopwatch(launch_of_process(), when_ready=gc.enable)
    stopwatch.lap("imports")

    hosts.initialize()
    programs_in = enable_compilation_cache()
    if not hosts.is_main():
        logging.getLogger("jaxrep").setLevel(logging.WARNING)
    if given.trust:
        trust_code(loaded.recipe, place)
    with propagate_failures():
        status = train(loaded.recipe, place, loaded, stopwatch=stopwatch, programs_in=programs_in)
    if status is ExitCode.DONE and hosts.is_main():
        echo(format_results(Run(place, status).results))
        echo(f"finished; the run directory is {place}")
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
