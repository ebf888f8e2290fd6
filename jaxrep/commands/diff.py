"""Show where two recipes differ."""

import argparse

from jaxrep.commands.models import add_trust
from jaxrep.commands.output import echo
from jaxrep.commands.recipes import EXPERIMENT, find
from jaxrep.spec import difference, render_difference


def main(args: list[str]) -> int:
    """Run ``jaxrep diff EXPERIMENT EXPERIMENT``."""
    parser = argparse.ArgumentParser(prog="jaxrep diff", description=__doc__)
    parser.add_argument("a", metavar="EXPERIMENT", help=f"{EXPERIMENT}; or a run directory")
    parser.add_argument("b", metavar="EXPERIMENT", help="the same, to compare with")
    add_trust(parser)
    given = parser.parse_args(args)
    changes = difference(find(given.a, given).recipe, find(given.b, given).recipe)
    echo(render_difference([change for change in changes if not change.execution]) or "the same run")
    if execution := [change for change in changes if change.execution]:
        echo("in execution only:\n" + render_difference(execution))
    return 0
