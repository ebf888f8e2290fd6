"""Damaged files of a run are one sentence that names the file and the field."""

import json
import shutil

import jax
import pytest

import jaxrep
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.experiment import from_run
from jaxrep.report.run_facts import read_run
from jaxrep.runs import layout
from jaxrep.runs.run import Run
from jaxrep.training.loop import train
from tests.helpers.harness import LOADED, RECIPE

CONTENTS = (
    *("", "{", "[]", "5", '"x"', "null", "{}", "[1]", '{"a": []}', '{"step": "x"}', "\xff", "[" * 10_000),
    *('{"devices": 5}', '{"started": 7}', '{"command": "x"}', '{"experiment": 3}', '{"experiment": "../a.py"}'),
    *('{"all": 1, "shards": 5}', '{"all": "x", "shards": {}}', '{"all": 1, "shards": {"a": 5}}'),
)
FILES = ("results.json", "environment.json", "bad_samples.json", "metrics.jsonl", "tokenizer.json", "recipe.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, whose files a test may change: they are put back."""
    place = tmp_path_factory.mktemp("runs") / "run"
    train(RECIPE.replace(examples=16), place, LOADED, devices=jax.devices()[:1])
    shutil.copytree(place, place.with_name("whole"))
    return place


@pytest.fixture
def damaged(run):
    """Writes a file of the run, which is put back at the end."""
    changed = []

    def damage(name, content):
        (run / name).write_bytes(content.encode("latin-1"))
        changed.append(name)
        return run

    yield damage
    for name in changed:
        shutil.copyfile(run.with_name("whole") / name, run / name)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_one_sentence(damaged, name, content):
    place = damaged(name, content)
    for read in (read_run, from_run, lambda path: (repr(Run(path)), Run(path).metrics(), Run(path).results)):
        try:
            read(place)
        except JaxrepError as error:
            assert name in str(error) and "\n" not in str(error) and len(str(error)) < 600


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("data",), None),
        (("data", "batch_size"), None),
        (("data", "batch_size"), "8"),
        (("data", "train"), None),
        (("method",), 3),
        (("objective",), []),
        (("views",), {}),
        (("schedule",), None),
        (("checkpoint",), None),
        (("$type",), 5),
        (("method", "$type"), []),
    ],
)
def test_recipe_with_a_value_of_another_type_is_one_sentence(damaged, run, path, value):
    recipe = part = json.loads((run / "recipe.json").read_text())
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    damaged("recipe.json", json.dumps(recipe))
    for read in (from_run, read_run, jaxrep.load):
        with pytest.raises(UsageError, match=r"recipe\.json"):
            read(run)


def test_fields_have_types(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1, "b": ["x"]}')
    assert layout.read_fields(path, ["a"], a=int, b=list[str], c=str) == {"a": 1, "b": ["x"]}
    with pytest.raises(UsageError, match=r"a\.json is damaged: 'a' is 1, expected a text"):
        layout.read_fields(path, a=str)
    with pytest.raises(UsageError, match=r"a\.json is damaged: it has no 'c'"):
        layout.read_fields(path, ["a", "c"])


def test_lines_of_metrics_are_read_but_for_a_last_one_that_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert layout.read_metrics(path) == []
    path.write_text('{"step": 1, "loss": null}\n{"step": 2, "lo')
    assert layout.read_metrics(path) == [{"step": 1, "loss": None}]
    path.write_text('{"step": 1, "lo\n{"step": 2}\n')
    with pytest.raises(UsageError, match=r"metrics\.jsonl, line 1: this is not JSON"):
        layout.read_metrics(path)


@pytest.mark.parametrize("name", ["\udce9.jpg", "é 猫", "\ud83d"])
def test_names_that_are_not_unicode_are_written_and_read_back(tmp_path, name):
    layout.write_json(tmp_path / "a.json", {"path": name})
    assert layout.read_json(tmp_path / "a.json") == {"path": name}
