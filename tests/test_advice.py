"""What sentences advise exists: flags, commands, fields of a recipe, functions, extras."""

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxrep
from jaxrep.cli import COMMANDS
from jaxrep.spec import children
from tests.helpers.harness import RECIPE

ROOT = Path(__file__).parents[1]
OTHERS = {
    "--xla_force_host_platform_device_count",
    "--show-toplevel",
    "--verify",
    "--porcelain",
    "--untracked-files",
    "--local-dir",
}
"""Flags of other programs."""
PLACEHOLDERS = {"--field.path"}


@functools.cache
def strings() -> tuple[tuple[str, str], ...]:
    """Return (file, text) of all strings of the package that are no docstrings; values in f-strings are empty."""
    return tuple(found for path in sorted((ROOT / "jaxrep").rglob("*.py")) for found in strings_of(path))


def strings_of(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "" for part in node.values)  # pyright: ignore
            yield str(path.relative_to(ROOT)), text
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inner:
            yield str(path.relative_to(ROOT)), node.value


def is_field(path: str) -> bool:
    """Return whether a recipe has a field."""
    part = RECIPE
    for name in path.replace("-", "_").split("."):
        if name not in children(part):
            return False
        part = children(part)[name]
    return True


def test_flags_that_sentences_name_exist():
    declared = {text for _, text in strings() if re.fullmatch(r"--[a-z][a-z-]*", text)}
    named = {(file, flag) for file, text in strings() for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text)}
    assert {"--run-dir", "--data.allow-changed", "--data.skip-failed-shards"} <= {flag for _, flag in named}
    known = declared | OTHERS | PLACEHOLDERS
    assert [(file, flag) for file, flag in sorted(named) if flag not in known and not is_field(flag[2:])] == []


def test_commands_that_sentences_name_exist():
    commands = {(file, command) for file, text in strings() for command in re.findall(r"[`:] ?jaxrep ([a-z]+)\b", text)}
    assert {"plan", "list", "env"} <= {command for _, command in commands}
    assert [(file, command) for file, command in sorted(commands) if command not in COMMANDS] == []


def test_extras_that_sentences_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {(file, extra) for file, text in strings() for extra in re.findall(r"jaxrep\[([\w-]+)\]", text)}
    assert [(file, extra) for file, extra in sorted(named) if extra not in extras] == []


@pytest.mark.parametrize(
    "path", ["data.max_bad_fraction", "mesh.rules", "log.wandb", "checkpoint.best", "microbatch_size"]
)
def test_fields_are_found(path):
    assert is_field(path) and not is_field(f"{path}_")


def test_fields_of_a_recipe_that_sentences_name_exist():
    """``data.batch_size`` in a sentence: the first word is a field that holds a part of one type."""
    roots = "data|mesh|log|checkpoint|profile"
    pattern = rf"(?<![\w./'-])(?:{roots})\.[a-z_]+(?![\w(./-])"
    named = {(file, path) for file, text in strings() for path in re.findall(pattern, text) if " " in text}
    assert len(named) > 5
    assert [(file, path) for file, path in sorted(named) if not is_field(path)] == []


def test_functions_that_sentences_name_exist():
    named = {(file, name) for file, text in strings() for name in re.findall(r"(?<![\w.])jaxrep\.([a-z_]+)\(", text)}
    assert [(file, name) for file, name in sorted(named) if not hasattr(jaxrep, name)] == []
