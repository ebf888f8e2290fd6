"""What sentences advise exists: flags, commands, fields of a recipe, functions, extras."""

import ast
import contextlib
import functools
import io
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxrep
from jaxrep import cli
from jaxrep.cli import COMMANDS
from jaxrep.commands.data import TOOLS
from jaxrep.commands.recipes import override
from jaxrep.spec import children
from tests.helpers.harness import LOADED, RECIPE

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


FLAG = r"(?<![\w-])(--[a-z][\w.-]*\w)(?: (True|False))?"


def advised() -> list[tuple[str, str, str]]:
    """Return (file, flag, value) of all flags in sentences; the value is that of a switch, or empty."""
    found = {(file, *match) for file, text in strings() for match in re.findall(FLAG, text) if text != match[0]}
    return sorted(found - {(file, flag, value) for file, flag, value in found if flag in OTHERS | PLACEHOLDERS})


@pytest.fixture(scope="module")
def flags_of_commands() -> dict[str, set[str]]:
    """Return the flags that each command's own parser lists, those of the tools of ``jaxrep data`` apart."""
    lines = [[name, "--help"] for name in COMMANDS] + [["data", tool, "--help"] for tool in TOOLS]
    found = {}
    for line in lines:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            cli.main(line)
        found["_".join(line[:-1])] = {*re.findall(r"--[a-z][a-z-]*", printed.getvalue())} | {"--help"}
    return found


def test_flags_of_commands_that_sentences_name_are_those_of_their_parsers(flags_of_commands):
    """A sentence in a command's file names a flag of this command; another one, a flag of any command."""
    every = set().union(*flags_of_commands.values())
    assert {"--run-dir", "--trust", "--evals", "--topology", "--part"} <= every
    wrong = [
        (file, flag)
        for file, flag, _ in advised()
        if not is_field(flag[2:]) and flag not in flags_of_commands.get(Path(file).stem, every)
    ]
    assert wrong == []


def test_flags_of_fields_that_sentences_advise_are_taken_as_they_are_advised(flags_of_commands):
    """A switch as the sentence writes it, alone or with True; another field with its value after it."""
    switches, others, own = {}, {}, set().union(*flags_of_commands.values())
    for _, flag, value in advised():
        if is_field(flag[2:]) and flag not in own | {"--data.train"}:
            path = flag[2:].replace("-", "_")
            now = functools.reduce(lambda part, name: children(part)[name], path.split("."), RECIPE)
            (switches if isinstance(now, bool) else others)[path] = (flag, value, now)
    assert {"data.allow_changed", "data.skip_failed_shards"} <= switches.keys() and others
    words = [word for flag, value, _ in switches.values() for word in (flag, value) if word]
    words += [word for flag, _, now in others.values() for word in (flag, str(now))]
    recipe = override(LOADED, words, "jaxrep train").recipe
    assert recipe == RECIPE.replace({path: value != "False" for path, (_, value, _) in switches.items()})


LINES = {
    "jaxrep env": "env",
    "jaxrep list": "list",
    "jaxrep plan": "plan tests/helpers/tiny.py --topology cpu:8",
    "jaxrep data --help": "data --help",
    "jaxrep data TOOL --help": "data convert --help",
    "jaxrep train EXPERIMENT --help": "train clip:tiny --help",
    "jaxrep eval RUN --evals": "eval tests/fixtures/format_1/run --evals few.py",
    "jaxrep show RUN --trust": "show tests/fixtures/format_1/run --trust",
}
"""What sentences advise to run, and a line of that form."""

PROTOCOL = """
from jaxrep import data, evals
pairs = data.TarShards(shards="tests/fixtures/format_1/pairs.tar", image_size=8)
evals = (evals.Retrieval(data=pairs),)
"""


def test_all_lines_that_sentences_advise_are_run_below():
    pattern = r"(?:`|see |by )(jaxrep (?:data (?:TOOL )?|train EXPERIMENT )?(?:--help|[a-z]+(?: RUN)?(?: --[a-z]+)?))"
    named = {line.strip() for _, text in strings() for line in re.findall(pattern, text)}
    assert len(named) > 3
    assert sorted(named - LINES.keys() - {"jaxrep --help"}) == []


@pytest.mark.parametrize("line", LINES.values())
def test_line_that_a_sentence_advises_runs(line, tmp_path, monkeypatch, jaxrep_says):
    monkeypatch.chdir(ROOT)
    (tmp_path / "few.py").write_text(PROTOCOL)
    status, out, err = jaxrep_says(line.replace("few.py", str(tmp_path / "few.py")))
    assert status == 0 and out, err


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
