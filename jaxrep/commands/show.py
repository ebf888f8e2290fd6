"""Show a resolved recipe, its number of parameters and its FLOPs per example."""

import argparse
import json
from typing import Any

from rich.text import Text
from rich.tree import Tree

from jaxrep.commands.models import add_trust
from jaxrep.commands.output import console, echo
from jaxrep.commands.recipes import EXPERIMENT, find, override, split
from jaxrep.errors import printable
from jaxrep.spec import children, is_spec, short_repr
from jaxrep.spec_json import to_json


def main(args: list[str]) -> int:
    """Run ``jaxrep show EXPERIMENT [--json] [--field.path VALUE ...]``."""
    options = argparse.ArgumentParser("jaxrep show", description=__doc__, add_help=False, allow_abbrev=False)
    options.add_argument("--json", action="store_true", help="print the recipe only, as a run keeps it")
    add_trust(options)
    target, given, fields = split(args, options, f"{EXPERIMENT}; or a run directory")
    recipe = override(find(target, given), fields, f"jaxrep show {target}", options.format_help()).recipe
    if given.json:
        echo(json.dumps(to_json(recipe), indent=1, ensure_ascii=False))
        return 0

    from jaxrep.step.shapes import model_summary

    console().print(tree(type(recipe).__name__, recipe))
    for name, number in model_summary(recipe).items():
        echo(f"{name.replace('_', ' ')}: {number:,.0f}")
    return 0


def tree(label: str, node: Any) -> Tree:
    """Return the parts of a recipe with their types and values. A tuple of plain values is one line."""
    root = Tree(Text(printable(label)))
    for name, child in children(node).items():
        inner = children(child)
        if inner and not (isinstance(child, tuple) and not any(map(children, child))):
            root.add(tree(f"{name}: {type(child).__name__}" if is_spec(child) else name, child))
        else:
            root.add(Text(printable(f"{name}: {short_repr(child)}")))
    return root
