"""Measure a model with the evaluations of its run's recipe, or with others.

--evals names other evaluations: those of another recipe, or an evaluation or a tuple of evaluations in a Python file.
It is required for a public checkpoint, which has no recipe.
"""

import argparse
from pathlib import Path

from jaxrep.commands.models import add_arguments, add_batch_size, check_out, load
from jaxrep.commands.output import echo
from jaxrep.errors import UsageError


def main(args: list[str]) -> int:
    """Run ``jaxrep eval MODEL [--evals EXPERIMENT ...] [--checkpoint C] [--weights W] [--batch-size N] ...``."""
    parser = argparse.ArgumentParser(prog="jaxrep eval", description=__doc__)
    add_arguments(parser, "MODEL", "a run directory, or the folder of a public checkpoint")
    parser.add_argument(
        "--evals",
        metavar="EXPERIMENT",
        nargs="+",
        default=[],
        help="use the evaluations of a recipe (the default preset), one evaluation, or a tuple of evaluations, as "
        "clip:tiny, in place of the run's own",
    )
    add_batch_size(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="a JSON file of the metrics, by name; FILE.npz holds their values per example",
    )
    options = parser.parse_args(args)
    check_out(options.out)
    from jaxrep.evals.base import format_results, name_conflicts, run_evals
    from jaxrep.experiment import load_evals
    from jaxrep.pretrained.load import is_checkpoint

    others = tuple(evaluation for target in options.evals for evaluation in load_evals(target))
    if not others and is_checkpoint(options.run):
        raise UsageError(f"{options.run} is a public checkpoint, which has no evaluations: give --evals")
    model, recipe = load(options)
    model.block_size = options.batch_size or model.block_size
    if not (evals := others or (recipe.evals if recipe else ())):
        raise UsageError(f"the recipe of {options.run} has no evaluation (its field evals is empty): give --evals")
    if conflict := next(name_conflicts(evals), None):
        raise UsageError(f"--evals: {conflict}")
    metrics = run_evals(evals, model)
    echo(format_results(metrics))
    if options.out:
        from jaxrep.metrics import sample
        from jaxrep.runs.layout import write_json

        sample.save(options.out.with_suffix(".npz"), metrics)
        write_json(options.out, metrics)
    return 0
