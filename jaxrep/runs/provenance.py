"""Record in each checkpoint what decides a run's numbers besides its arrays, and compare it when the run goes on.

A record holds the identity of the recipe, a digest of the vocabulary, a fingerprint of the training data, digests of
the tables, the number of steps, and the commits of what the run starts from on a hub. Checkpoints of earlier versions
hold none, and there is nothing to compare.
"""

import itertools
import logging
from collections.abc import Mapping
from typing import Any

from jaxrep import hub
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.errors import UsageError
from jaxrep.recipe import Recipe
from jaxrep.runs import layout
from jaxrep.spec import Change, difference, render_difference, walk
from jaxrep.spec_json import TYPE, identity, redacted

LOG = logging.getLogger(__name__)

DATA = ("data", "tables", "total_steps", "origins")
"""Entries that follow from the data, and from what the run starts from."""


def origins(recipe: Recipe) -> dict[str, str]:
    """Return the addresses on a hub that a recipe starts from, each with the commit that it names now.

    Raises:
        UsageError: there is no such repository or revision, or access is denied.
        JaxrepError: the hub cannot be reached.
    """
    return {address: hub.at_commit(address) for address in sorted({*addresses(recipe).values()})}


def at_commits(recipe: Recipe, origins: Mapping[str, str]) -> Recipe:
    """Return a recipe with the addresses of ``origins`` at their commits."""
    return recipe.replace({path: origins.get(value, value) for path, value in addresses(recipe).items()})


def addresses(recipe: Recipe) -> dict[str, str]:
    """Return the addresses of checkpoints, runs and tokenizers by dotted path; recipes within are runs of their own."""
    found, nested = {}, []
    for path, part in itertools.chain(walk(recipe.init, "init"), walk(recipe.data.tokenizer, "data.tokenizer")):
        nested += [f"{path}."] if isinstance(part, Recipe) else []
        if isinstance(part, str) and hub.is_hub(part) and not path.startswith(tuple(nested)):
            found[path] = part
    return found


def record(recipe: Recipe, tokenizer: LoadedTokenizer, **data: Any) -> dict[str, Any]:
    """Return the record of a run, as JSON values; ``data`` are the entries of ``DATA``."""
    return {"recipe": _named(recipe), "tokenizer": layout.digest(tokenizer.state), **data}


def check_files(saved: Mapping[str, Any], recipe: Recipe, tokenizer: LoadedTokenizer | None, checkpoint: str) -> None:
    """Check that the recipe and the vocabulary are those of a checkpoint.

    Args:
        saved: metadata of the checkpoint.
        recipe: the recipe in the run.
        tokenizer: the tokenizer of the run; None is not compared.
        checkpoint: names the checkpoint, for messages.

    Raises:
        UsageError: a file of the run was changed.
    """
    now = _named(recipe)
    then = saved.get("recipe", now)
    if changed := difference(_shared(then, now), _shared(now, then)):
        raise UsageError(
            f"{layout.RECIPE} is not the recipe of {checkpoint}: {_in_a_line(changed)}; put the file back as it was"
        )
    if tokenizer and "tokenizer" in saved and saved["tokenizer"] != layout.digest(tokenizer.state):
        raise UsageError(f"{layout.TOKENIZER} is not the vocabulary of {checkpoint}: put the file back as it was")


def check_data(saved: Mapping[str, Any], now: Mapping[str, Any], checkpoint: str, allow: bool) -> None:
    """Check that the data are those of a checkpoint.

    Args:
        saved: metadata of the checkpoint.
        now: the record of the run that goes on.
        checkpoint: names the checkpoint, for messages.
        allow: whether other data are told and taken.

    Raises:
        UsageError: the data differ, and that is not allowed.
    """
    before, after = ({name: each.get(name) for name in DATA if name in saved} for each in (saved, now))
    if not (changed := difference(before, after)):
        return
    told = f"the data are not those of {checkpoint}: {_in_a_line(changed)}"
    if not allow:
        raise UsageError(
            f"{told}; bring them back, start another run by --run-dir, or go on with them by --data.allow-changed"
        )
    LOG.warning("%s; the run goes on with the new ones, as data.allow_changed says", told)


def _named(recipe: Recipe) -> Any:
    """Return the identity of a recipe; another password or token is no other recipe."""
    return redacted(identity(recipe))


def _in_a_line(changes: list[Change]) -> str:
    return render_difference(changes).replace("\n", ", ")


def _shared(one: Any, other: Any) -> Any:
    """Return a recipe without the fields that parts of the other have not: they came with another version of jaxrep."""
    if isinstance(one, list):
        others = other[: len(one)] if isinstance(other, list) else []
        return tuple(_shared(*pair) for pair in itertools.zip_longest(one, others))
    if isinstance(one, dict):
        others = other if isinstance(other, dict) else {}
        kept = one if TYPE not in one else one.keys() & others.keys()
        return {name: _shared(child, others.get(name)) for name, child in one.items() if name in kept}
    return one
