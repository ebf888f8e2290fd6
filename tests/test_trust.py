"""Code that came with a run of somebody else is executed only with --trust; a user's own runs need none."""

import contextlib
import inspect
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxrep
from jaxrep import cli, trust
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.experiment import from_run, recipe_json
from jaxrep.experiment_files import bundled_folder
from jaxrep.metrics.sample import Sample
from jaxrep.recipe import From
from jaxrep.report.run_facts import paper_difference, read_run
from jaxrep.spec_json import to_json
from jaxrep.user_modules import load_module
from tests.helpers import made_runs as made
from tests.helpers.harness import LOADED, RECIPE
from tests.helpers.processes import TEST


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A run of somebody else: its copy of the experiment file leaves a mark when it is executed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = made.run(tmp_path / "foreign", {"r1": Sample(np.array([1.0, 0.0]))})
    with (run / "tiny.py").open("a") as file:
        file.write(f"\nopen({str(tmp_path / 'executed')!r}, 'w').close()\n")
    return run


@pytest.fixture
def executed(tmp_path):
    """Tell whether the code of the foreign run was executed."""
    return (tmp_path / "executed").exists


@pytest.fixture
def says(capsys, tmp_path, monkeypatch):
    """Run the program in a folder of its own; give the exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxrep.commands.plan.prepare", lambda topology: None)

    def run(*args):
        status = cli.main([str(arg) for arg in args])
        return status, "".join(capsys.readouterr())

    return run


COMMANDS = [
    "show RUN",
    "diff RUN RUN",
    "plan RUN",
    "eval RUN",
    "embed RUN pairs.csv --out x.npz",
    "export RUN --to safetensors --out exported",
    "compare RUN",
    "report RUN --out page.html",
    f"train {LOADED.path} --run-dir RUN",
    "bench RUN --steps 1",
    "data score pairs.csv --model RUN --out x.npz",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_refuse_foreign_code_in_one_sentence(foreign, executed, says, line):
    status, printed = says(*line.replace("RUN", str(foreign)).split())
    assert status == 2 and not executed()
    assert f"the recipe needs the code in {foreign / 'tiny.py'}, which came with the run" in printed
    assert "give --trust (in Python trust=True)" in printed and "Traceback" not in printed


@pytest.mark.parametrize("use", [jaxrep.load, lambda run: jaxrep.open_run(run).recipe, jaxrep.evaluate, from_run])
def test_functions_refuse_foreign_code(foreign, executed, use):
    with pytest.raises(UsageError, match=r"tiny\.py, which came with the run"):
        use(foreign)
    assert not executed()


@pytest.mark.parametrize(
    "line", ["show RUN --json", "diff RUN RUN", "compare RUN", f"train {LOADED.path} --run-dir RUN"]
)
def test_trust_executes_foreign_code_and_is_remembered(foreign, executed, says, line):
    words = line.replace("RUN", str(foreign)).split()
    assert says(*words, "--trust")[0] == 0 and executed()
    assert says(*words)[0] == 0


EVALS = Retrieval(data=TEST)
FUNCTIONS = {
    "open_run": lambda run, **trust: jaxrep.open_run(run, **trust).recipe,
    "load": jaxrep.load,
    "evaluate": jaxrep.evaluate,
    "evaluate with evals": lambda run, **trust: jaxrep.evaluate(run, EVALS, **trust),
    "embed": lambda run, **trust: jaxrep.embed(run, TEST, **trust),
    "train, resumed": lambda run, **trust: jaxrep.train(RECIPE.replace(examples=8), run, **trust),
    "train, from it": lambda run, **trust: jaxrep.train(
        RECIPE.replace(init={"image": From(str(run))}), run.parent / "new", **trust
    ),
}


def test_all_functions_that_read_runs_are_here():
    """A function takes ``trust`` if it takes the path of a run, and here is one call of it at least."""
    taking = {name for name in dir(jaxrep) if takes_trust(getattr(jaxrep, name))}
    assert taking == {name.split()[0].strip(",") for name in FUNCTIONS}


def takes_trust(function):
    return inspect.isfunction(function) and "trust" in inspect.signature(function).parameters


@pytest.mark.parametrize("name", FUNCTIONS)
def test_trust_in_python(foreign, executed, name):
    """Without trust one sentence; with it the code is executed, whatever else the run lacks."""
    with pytest.raises(UsageError, match=r"tiny\.py, which came with the run.* trust=True"):
        FUNCTIONS[name](foreign)
    assert not executed()
    with pytest.raises(JaxrepError) if name != "open_run" else contextlib.nullcontext():
        FUNCTIONS[name](foreign, trust=True)  # this run has no checkpoint, and another recipe
    assert executed()


def test_trust_belongs_to_the_content_of_a_file(foreign, executed, tmp_path):
    jaxrep.open_run(foreign, trust=True)
    changed = shutil.copytree(foreign, tmp_path / "changed")
    with (changed / "tiny.py").open("a") as file:
        file.write("# one more line\n")
    with pytest.raises(UsageError, match="which came with the run"):
        from_run(changed)


def test_run_without_parts_of_its_file_executes_none(foreign, executed, says, tmp_path):
    recipe = load_module("clip").tiny
    (foreign / "recipe.json").write_text(json.dumps(recipe_json(recipe)))
    for line in ("show RUN --json", "diff RUN RUN", "compare RUN", "report RUN --no-model --out page.html"):
        assert says(*line.replace("RUN", str(foreign)).split())[0] == 0
    assert paper_difference(read_run(foreign)).unknown.startswith("tiny.py was not executed")
    assert not executed()


def test_run_of_one_s_own_needs_no_trust_in_a_later_process(foreign, executed):
    """Training records the file; the record is found when nothing of it is loaded, and the original is gone."""
    original = foreign.parent / "tiny.py"
    shutil.copy(foreign / "tiny.py", original)
    assert trust.record(original) == ""
    original.unlink()
    assert to_json(from_run(foreign).recipe) == to_json(RECIPE) and executed()


def test_copy_of_a_bundled_file_is_read_as_the_bundled_one_with_its_neighbors(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    bundled = next(file for file in sorted(bundled_folder().rglob("*.py")) if "import common" in file.read_text())
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "common.py").write_text("raise RuntimeError('of somebody else')")
    copy = shutil.copy(bundled, tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    assert trust.own_file(Path(copy)) == bundled
    assert load_module(bundled).__file__ == str(bundled)


@pytest.mark.parametrize("home", ["file", ""])
def test_folder_that_cannot_be_written_is_one_sentence(foreign, tmp_path, monkeypatch, home):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / home) if home else "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UsageError, match=r"tiny\.py cannot be recorded: .*set XDG_STATE_HOME to a folder of your own"):
        jaxrep.open_run(foreign, trust=True)
