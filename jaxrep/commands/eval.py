"""Measures a model by the evaluations of its run's recipe, or by others.

With --evals, by those of another recipe, or by an evaluation or a tuple of them that a Python file declares; so is a
public checkpoint, which has no recipe.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrep.commands.models import add_arguments, check_out, load
from jaxrep.errors import UsageError
from jaxrep.experiment import load_evals

if TYPE_CHECKING:
    from jaxrep.evals.base import Eval
    from jaxrep.model import Model


def main(args: list[str]) -> int:
    """``jaxrep eval MODEL [--evals NAME[:PRESET] …] [--checkpoint latest|best] [--weights auto|raw|ema] [--out FILE]``"""
    parser = argparse.ArgumentParser(prog="jaxrep eval", description=__doc__)
    add_arguments(parser, "MODEL", "a run directory, or the folder of a public checkpoint")
    parser.add_argument(
        "--evals",
        metavar="NAME[:PRESET]",
        nargs="+",
        default=[],
        help="in place of the run's own: those of a recipe (the default NAME), an evaluation, or a tuple of them, "
        "as clip:tiny, emoji or FILE.py:NAME",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="a JSON file of the metrics, by name; and beside it FILE.npz, their values an example",
    )
    given = parser.parse_args(args)
    check_out(given.out)
    others = tuple(each for target in given.evals for each in load_evals(target))
    model, evals = _model(given, others)
    from jaxrep.evals.base import format_results, name_conflicts, run_evals

    if clash := next(name_conflicts(evals), None):
        raise UsageError(f"--evals: {clash}")
    metrics = run_evals(evals, model)
    print(format_results(metrics))
    if given.out:
        from jaxrep.metrics import sample
        from jaxrep.runs.layout import write_json

        sample.save(given.out.with_suffix(".npz"), metrics)
        write_json(given.out, metrics)
    return 0


def _model(given: argparse.Namespace, others: "tuple[Eval, ...]") -> "tuple[Model, tuple[Eval, ...]]":
    """The model, and what it is measured by: ``others``, or what its recipe says. Raises UsageError."""
    from jaxrep.pretrained.load import is_checkpoint, load_checkpoint

    if is_checkpoint(given.run):
        if not others:
            raise UsageError(f"{given.run} is a public checkpoint, which has no evaluations of its own: give --evals")
        return load_checkpoint(given.run), others
    model, recipe = load(given)
    if not (evals := others or recipe.evals):
        raise UsageError(
            f"the recipe of {given.run} has no evaluation: its field evals is empty; give others by --evals"
        )
    return model, evals
