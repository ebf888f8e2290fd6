"""Show a resolved recipe, its number of parameters and its FLOPs per example."""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from jaxrep.commands.recipes import find, override
from jaxrep.spec import children, is_spec, short_repr
from jaxrep.spec_json import to_json


def main(args: list[str]) -> int:
    """Run ``jaxrep show NAME[:PRESET] [--json] [--field.path VALUE ...]``."""
    about = argparse.ArgumentParser(
        prog="jaxrep show",
        description=__doc__,
        usage="jaxrep show NAME[:PRESET] [--json] [--field.path VALUE ...]",
        epilog="jaxrep show NAME[:PRESET] --help lists the recipe's fields.",
    )
    about.add_argument(
        "recipe",
        metavar="NAME[:PRESET]",
        help="an experiment (a short name as clip, or FILE.py) and one of its presets, or a run directory",
    )
    loaded = find(about.parse_args(args[:1]).recipe)

    options = argparse.ArgumentParser(prog="jaxrep show", add_help=False, allow_abbrev=False)
    options.add_argument("--json", action="store_true")
    given, fields = options.parse_known_args(args[1:])
    more = "--json: print the recipe only, as a run keeps it"
    recipe = override(loaded, fields, f"jaxrep show {args[0]}", more).recipe
    if given.json:
        print(json.dumps(to_json(recipe), indent=1, ensure_ascii=False))
        return 0

    from jaxrep.step.shapes import model_summary

    console = Console(highlight=False)
    console.print(tree(type(recipe).__name__, recipe))
    for name, number in model_summary(recipe).items():
        console.print(Text(f"{name.replace('_', ' ')}: {number:,}"))
    return 0


def tree(label: str, node: Any) -> Tree:
    """Return the parts of a recipe with their types and values."""
    root = Tree(Text(label))
    for name, child in children(node).items():
        if children(child) and not _flat(child):
            root.add(tree(f"{name}: {type(child).__name__}" if is_spec(child) else name, child))
        else:
            root.add(Text(f"{name}: {short_repr(child)}"))
    return root


def _flat(node: Any) -> bool:
    """Return whether a node is a tuple of plain values, which fits on one line."""
    return isinstance(node, tuple) and not any(children(child) for child in node)
