"""What several commands do with their arguments: find a recipe, and change its fields."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrep.experiment import LoadedExperiment, from_run, load
from jaxrep.spec import children, replace

if TYPE_CHECKING:
    from jaxrep.recipe import Recipe

KEPT = ("image_size", "crop")
"""Of the source before, what the model and its views are made for."""


def find(target: str) -> LoadedExperiment:
    """The recipe of a run directory, or of ``FILE[:NAME]``."""
    if "://" in target:
        from jaxrep.runs.remote import fetch_run

        return from_run(fetch_run(target))
    return from_run(target) if Path(target).is_dir() else load(target)


def override(loaded: LoadedExperiment, args: list[str], prog: str, more: str = "") -> LoadedExperiment:
    """The same with the fields changed that ``args`` name: ``--method.towers.image.width 384``.

    ``--data.train tar:pairs.tar`` takes another source, named as ``jaxrep data`` does (``data.grammar``), with the size
    and crop of the pictures before; its fields are flags as well.
    ``--help`` among them lists every field, and ends the program as a wrong field does. ``more`` is added to that help.
    """
    options = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    options.add_argument("--data.train", dest="source", metavar="SOURCE")
    given, args = options.parse_known_args(args)
    if given.source is not None:
        loaded = dataclasses.replace(loaded, recipe=_reading(loaded.recipe, given.source))
    if not args:
        return loaded
    import tyro  # slow to import, as recipes are: a command's own help and a wrong file are answered before

    from jaxrep.recipe import Recipe

    source = "--data.train SOURCE: another source, as tar:pairs-{00..99}.tar,text=caption (see jaxrep data --help)"
    description = "\n\n".join(part for part in (loaded.doc, more, source) if part)
    recipe = tyro.cli(Recipe, args=args, default=loaded.recipe, prog=prog, description=description)
    return dataclasses.replace(loaded, recipe=_of_one_length(recipe, loaded.recipe))


def _of_one_length(recipe: "Recipe", before: "Recipe") -> "Recipe":
    """A length in epochs that was given takes the place of the file's in examples, and the other way round."""
    given = {name for name in ("examples", "epochs") if getattr(recipe, name) != getattr(before, name)}
    return recipe.replace({name: getattr(recipe, name) for name in given}) if len(given) == 1 else recipe


def _reading(recipe: "Recipe", text: str) -> "Recipe":
    """The recipe with another source of training data. Raises UsageError."""
    from jaxrep.data.source_string import parse_source

    before = children(recipe.data.train)
    return replace(recipe, {"data.train": parse_source(text, {name: before[name] for name in KEPT if name in before})})
