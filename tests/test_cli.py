"""The program answers quickly, finds recipes, changes fields by flags, and says a user's mistake in one sentence."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxrep
from jaxrep import cli
from jaxrep.errors import JaxrepError

# The program

KNOWN = f"there are: {', '.join(cli.COMMANDS)}"


def test_help_imports_nothing_slow():
    code = "import sys, jaxrep.cli; jaxrep.cli.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "numpy", "tyro", "rich", "typeguard"} & set(done.stderr.split())
    assert all(f"  {name}" in done.stdout for name in cli.COMMANDS)


def test_every_command_has_a_module():
    files = {path.stem for path in (Path(jaxrep.__file__).parent / "commands").glob("*.py")}
    assert set(cli.COMMANDS) <= files


def test_unknown_command_is_a_usage_error(jaxrep_says):
    status, out, err = jaxrep_says("trian x.py")
    assert (status, out) == (2, "")
    assert err.startswith("jaxrep: error: there is no command 'trian'; did you mean train? there are: train, ")


def test_missing_command_is_a_usage_error(jaxrep_says):
    assert jaxrep_says("") == (2, "", f"jaxrep: error: a command is missing; {KNOWN}; see jaxrep --help\n")


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [(JaxrepError("the disk is full"), 1, "jaxrep: error: the disk is full\n"), (KeyboardInterrupt(), 130, "")],
)
def test_user_error_is_one_sentence_and_interrupt_is_quiet(jaxrep_says, monkeypatch, error, status, printed):
    def fails(args):
        raise error

    monkeypatch.setattr(cli, "run", fails)
    assert jaxrep_says("train x.py") == (status, "", printed)


def test_broken_pipe_is_quiet(toy):
    code = (
        "import sys; from jaxrep.cli import main; sys.exit(main(['diff', 'experiments/toy.py', 'experiments/toy.py']))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=0) as process:
        process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]
        assert process.stderr.read() == ""  # pyright: ignore[reportOptionalMemberAccess]
    assert process.returncode == cli.UNREAD


def test_too_little_memory_of_a_device_is_one_sentence(monkeypatch, capsys):
    def full(_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.\nmore")

    monkeypatch.setattr(cli, "run", full)
    assert cli.main(["plan"]) == 1
    told = "the devices have too little memory: RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes."
    assert capsys.readouterr().err == f"jaxrep: error: {told}\n"


def test_bug_keeps_its_traceback_and_asks_for_a_report(monkeypatch, capsys):
    monkeypatch.setattr(cli, "run", int)
    assert cli.main(["train"]) == 1
    errors = capsys.readouterr().err
    assert "TypeError: int() argument must be" in errors
    assert errors.endswith("jaxrep: this is a bug: please report it with the output of `jaxrep env`\n")


def test_env_prints_versions_devices_caches_and_extras(jaxrep_says):
    status, out, _ = jaxrep_says("env")
    facts = json.loads(out)
    assert status == 0 and facts["versions"]["jax"] and facts["devices"]["count"] >= 1
    assert {"cache", "extras", "python", "platform", "git"} <= set(facts)


# Help


def spec_classes(path):
    """Base names, documented fields and all fields of each spec in a file, by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef) or "spec" not in map(ast.unparse, node.decorator_list):
            continue
        documented, fields = set(), set()
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                fields.add(ast.unparse(field.target))
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    documented.add(ast.unparse(field.target))
        yield node.name, ([ast.unparse(base) for base in node.bases], documented, fields)


def test_every_spec_field_has_a_docstring_for_help():
    """Of its own, or of the field of a base class whose default it changes."""
    root = Path(jaxrep.__file__).parent
    known = {name: found for path in root.rglob("*.py") for name, found in spec_classes(path)}

    def documented(name):
        bases, own, _ = known.get(name, ((), set(), set()))
        return own.union(*(documented(base) for base in bases if base != name))

    missing = [f"{name}.{field}" for name, (_, _, fields) in known.items() for field in fields - documented(name)]
    assert missing == []
