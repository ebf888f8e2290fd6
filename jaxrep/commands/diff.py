"""Show where two recipes differ."""

import argparse

from jaxrep.commands.recipes import find
from jaxrep.spec import difference, render_difference


def main(args: list[str]) -> int:
    """Run ``jaxrep diff A B``."""
    parser = argparse.ArgumentParser(prog="jaxrep diff", description=__doc__)
    parser.add_argument("a", metavar="A", help="an experiment, NAME[:PRESET] or FILE[:PRESET], or a run directory")
    parser.add_argument("b", metavar="B", help="the same")
    given = parser.parse_args(args)
    changes = difference(find(given.a).recipe, find(given.b).recipe)
    identity = [change for change in changes if not change.execution]
    execution = [change for change in changes if change.execution]
    print(render_difference(identity) if identity else "the same run")
    if execution:
        print("in execution only:\n" + render_difference(execution))
    return 0
