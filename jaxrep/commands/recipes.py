"""Find the experiment that a command line names, and change its recipe by flags."""

import argparse
import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrep.commands.models import folder, trust_runs
from jaxrep.errors import UsageError, hint, nearest
from jaxrep.experiment import LoadedExperiment, from_run, load
from jaxrep.spec import check, children, is_spec, join_path, replace, walk

if TYPE_CHECKING:
    from jaxrep.recipe import Recipe

EXPERIMENT = "an experiment and its preset: a short name (clip, clip:tiny), or FILE.py[:PRESET]"
KEPT = ("image_size", "crop")
"""Fields of the recipe's source that another source keeps: the model and its views are made for them."""


def split(args: list[str], options: argparse.ArgumentParser, what: str) -> tuple[str, argparse.Namespace, list[str]]:
    """Split ``EXPERIMENT [OPTIONS] [--field.path VALUE ...]`` into experiment, options, and flags of fields.

    Args:
        args: the command line.
        options: the command's own options, without help.
        what: help on the experiment.
    """
    about = argparse.ArgumentParser(
        options.prog,
        f"{options.prog} EXPERIMENT [OPTIONS] [--field.path VALUE ...]",
        options.description,
        f"{options.prog} EXPERIMENT --help lists the recipe's fields.",
        parents=[options],
    )
    about.add_argument("experiment", metavar="EXPERIMENT", help=what)
    return about.parse_args(args[:1]).experiment, *options.parse_known_args(args[1:])


def find(target: str, given: argparse.Namespace) -> LoadedExperiment:
    """Return the recipe of an experiment, of a run directory, or of a run behind a URL."""
    if "://" not in target and not Path(target).is_dir():
        return load(target)
    run = folder(target)
    trust_runs(given, [run])
    return from_run(run)


def override(loaded: LoadedExperiment, args: list[str], prog: str, more: str = "") -> LoadedExperiment:
    """Change the fields that flags name, as ``--method.towers.image.width 384``.

    ``--data.train tar:pairs.tar`` takes another source (``data.source_string``), with the picture size and crop of the
    recipe's own; the fields of that source are flags too. ``--help`` prints all fields and ends the program, as a wrong
    field does.

    Args:
        loaded: the experiment.
        args: the flags.
        prog: the command, for messages.
        more: text that is added to the help.
    """
    options = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    options.add_argument("--data.train", dest="source", metavar="SOURCE")
    given, args = options.parse_known_args(args)
    recipe = loaded.recipe if given.source is None else _with_source(loaded.recipe, given.source)
    if args:
        import tyro  # slow to import: a command's help and a wrong file are answered without it

        from jaxrep.recipe import Recipe

        source = "--data.train SOURCE: another source, as tar:pairs-{00..99}.tar,text=caption (see jaxrep data --help)"
        _check_parts_have(args, recipe, loaded.path)
        recipe = _with_floats(recipe)
        description = "\n\n".join(part for part in (loaded.doc, more, source) if part)
        changed = tyro.cli(
            tyro.conf.AvoidSubcommands[Recipe],  # a part that may be absent has its flags where the recipe has it
            args=_as_tyro_writes(args, recipe),
            default=recipe,
            prog=prog,
            description=description,
        )
        recipe = _with_one_length(changed, recipe)
    check(recipe)
    return dataclasses.replace(loaded, recipe=recipe)


def _check_parts_have(args: list[str], recipe: "Recipe", file: Path) -> None:
    """Check that flags name fields of the recipe's parts; tyro tells of mistyped fields, and of what is no field.

    Raises:
        UsageError: a part has no such field, nor one of a similar name: the flag is for another part.
    """
    known = {path.replace("-", "_"): part for path, part in walk(recipe)}
    if any(word.partition(":")[0].replace("-", "_") in known for word in args if ":" in word):
        return  # words of tyro that choose a part
    for word in args:
        place, _, name = word.partition("=")[0].removeprefix("--").replace("-", "_").rpartition(".")
        part = known.get(place) if word.startswith("--") and place else None
        names = children(part)
        if is_spec(part) and name not in names and not nearest(name.removeprefix("no_"), names):
            raise UsageError(
                f"{place} is {type(part).__name__}, which has no field {name!r}; {hint(name, names)}. Flags change the "
                f"fields of a part; another part is declared in an experiment file: copy {file}"
            )


def _with_floats(recipe: "Recipe") -> "Recipe":
    """Return the recipe with mappings of floats that hold no integer: tyro reads a flag as the type of the value."""
    changes = {}
    for path, part in walk(recipe):
        hints = typing.get_type_hints(type(part)) if is_spec(part) else {}
        for name, annotation in hints.items():
            value = getattr(part, name, None)
            if (
                typing.get_args(annotation)[1:] == (float,)
                and isinstance(value, Mapping)
                and int in map(type, value.values())
            ):
                changes[join_path(path, name)] = {key: float(number) for key, number in value.items()}
    return replace(recipe, changes)


def _as_tyro_writes(args: list[str], recipe: "Recipe") -> list[str]:
    """Write ``--log.tensorboard False`` as ``--log.no-tensorboard``, and the flag alone for ``True``."""
    switches = {f"--{path.replace('_', '-')}" for path, value in walk(recipe) if isinstance(value, bool)}
    written: list[str] = []
    for word in args:
        if word in ("True", "False") and written and written[-1].replace("_", "-") in switches:
            written[-1] = written[-1] if word == "True" else re.sub(r"([^.-][^.]*)$", r"no-\1", written[-1])
        else:
            written.append(word)
    return written


def _with_one_length(recipe: "Recipe", before: "Recipe") -> "Recipe":
    """Let a length in epochs that a flag gives replace the file's in examples, and the reverse."""
    given = {name for name in ("examples", "epochs") if getattr(recipe, name) != getattr(before, name)}
    return recipe.replace({name: getattr(recipe, name) for name in given}) if len(given) == 1 else recipe


def _with_source(recipe: "Recipe", text: str) -> "Recipe":
    """Return the recipe with another source of training data. Raises UsageError."""
    from jaxrep.data.source_string import parse_source

    before = children(recipe.data.train)
    return replace(recipe, {"data.train": parse_source(text, {name: before[name] for name in KEPT if name in before})})
