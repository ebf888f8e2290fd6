"""Presets of experiment files are loaded by path; a run is read from its JSON and its own copy of the file."""

import json
import pickle
import shutil
import sys
import textwrap

import pytest

from jaxrep.errors import UsageError
from jaxrep.experiment import from_run, load, load_evals, recipe_json
from jaxrep.spec_json import to_json
from jaxrep.trust import record

CLIP = '''
"""Toy CLIP: which caption goes with which picture.

More words.
"""
from jaxrep import Data, Recipe, data, encoders, methods, optim, schedules
from jaxrep.spec import spec


@spec
class Toy(data.WrappedSource):
    size: int = 8

    def open(self):
        return self.source.open()


recipe = Recipe(
    data=Data(train=data.Csv(path="pairs.csv"), batch_size=64),
    method=methods.SingleEncoder(name="image", encoder=encoders.ViT.ti16()),
    objective={},
    optimizer=optim.AdamW(),
    schedule=schedules.Constant(value=1.0),
    examples=128,
)
tiny = recipe.replace({"data.batch_size": 4})
own = recipe.replace({"data.train": Toy(source=recipe.data.train, size=3)})
number = 3
'''
NEIGHBOR = '''
"""Its neighbor."""
from experiments import clip

recipe = clip.tiny.replace(seed=5)
borrowed = clip.own
'''

PROTOCOL = '''
"""A protocol of evaluation."""
from jaxrep.data import Csv
from jaxrep.evals import Retrieval

tiny = (Retrieval(data=Csv(path="pairs.csv")),)
evals = (*tiny, Retrieval(data=Csv(path="more.csv"), name="more"))
clash = (Retrieval(data=Csv(path="pairs.csv", image_size=0)),)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "clip.py").write_text(CLIP.lstrip())
    (folder / "align.py").write_text(NEIGHBOR.lstrip())
    (folder / "protocol.py").write_text(PROTOCOL.lstrip())
    return folder


def write(folder, name, text):
    (folder / name).write_text(textwrap.dedent(text).lstrip())
    return f"{folder / name}"


def test_load_preset_with_recipe_as_default(folder):
    loaded = load(f"{folder}/clip.py:tiny")
    assert loaded.recipe.data.batch_size == 4
    assert (loaded.name, loaded.path, loaded.doc) == (
        "tiny",
        folder / "clip.py",
        "Toy CLIP: which caption goes with which picture.",
    )
    assert load(f"{folder}/clip.py").recipe.data.batch_size == 64


def test_experiment_imports_neighbor_as_the_same_module(folder):
    neighbor = load(f"{folder}/align.py")
    assert neighbor.recipe == load(f"{folder}/clip.py:tiny").recipe.replace(seed=5)
    assert vars(neighbor.module)["clip"] is load(f"{folder}/clip.py").module


def test_folders_of_two_checkouts_do_not_mix(folder, tmp_path):
    load(f"{folder}/align.py")
    other = tmp_path / "other" / "experiments"
    other.mkdir(parents=True)
    (other / "clip.py").write_text(
        CLIP.replace("batch_size=64", "batch_size=32").replace('batch_size": 4', 'batch_size": 2')
    )
    (other / "align.py").write_text(NEIGHBOR)
    assert load(f"{other}/align.py").recipe.data.batch_size == 2
    assert load(f"{folder}/align.py").recipe.data.batch_size == 4


def test_classes_of_an_experiment_pickle(folder):
    recipe = load(f"{folder}/clip.py:own").recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    written = to_json(recipe)["data"]["train"]
    assert (written["$type"], written["size"]) == ("experiment:Toy", 3)


def test_missing_file_of_the_current_folder_is_named_plainly(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=r"^clpi.py does not exist; did you mean clip.py\? there are: "):
        load("clpi.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^clpi.py does not exist; this folder holds no Python file$"):
        load("clpi.py")


def test_loading_does_not_shadow_sys_path(folder):
    before = list(sys.path)
    load(f"{folder}/clip.py")
    assert sys.path[: len(before)] == before


KNOWN = "there are: align.py, clip.py, protocol.py"
PRESETS = "there are: recipe, tiny, own"


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("clpi.py", f"clpi.py does not exist; in {{folder}} did you mean clip.py? {KNOWN}"),
        ("clip", f"clip does not exist; in {{folder}} did you mean clip.py? {KNOWN}"),
        (
            "protocol.py",
            "protocol.py holds evaluations and no recipe: `jaxrep eval RUN --evals {folder}/protocol.py` runs them",
        ),
        ("clip.py:tyni", f"clip.py has no recipe named 'tyni'; did you mean tiny? {PRESETS}"),
        ("clip.py:number", f"clip.py:number is of type int, not a Recipe; {PRESETS}"),
        (
            "align.py:borrowed",
            "align.py:borrowed: data.train is a Toy of {folder}/clip.py; a run keeps a copy of one file, so a recipe's "
            "parts come from jaxrep and from its own file: define Toy in {folder}/align.py",
        ),
    ],
)
def test_wrong_target_names_what_exists(folder, target, sentence):
    with pytest.raises(UsageError) as error:
        load(f"{folder}/{target}")
    assert str(error.value) == f"{folder}/" + sentence.format(folder=folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\ny = (\n", "line 2: '(' was never closed"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        (
            "from jaxrep.schedules import Constant\n\nc = Constant(\n    valeu=3)\n",
            "line 3: Constant has no field 'valeu'; did you mean value? there are: value",
        ),
        (
            "from experiments import clip\nrecipe = clip.tiny.replace({'data.btach_size': 3})\n",
            "line 2: data.btach_size: Data has nothing named 'btach_size'; did you mean batch_size? there are: train, ",
        ),
    ],
)
def test_mistake_in_a_file_is_one_sentence_with_its_line(folder, text, sentence):
    target = write(folder, "wrong.py", text)
    for _ in range(2):  # and the module is not kept half made
        with pytest.raises(UsageError) as error:
            load(target)
        assert str(error.value).startswith(f"{target}, {sentence}")


# Runs


def save(loaded, run):
    run.mkdir()
    (run / "recipe.json").write_text(json.dumps(recipe_json(loaded.recipe)))
    shutil.copy(loaded.path, run)
    record(loaded.path)


def test_run_restores_its_recipe(folder, tmp_path):
    loaded = load(f"{folder}/clip.py:tiny")
    save(loaded, tmp_path / "clip-tiny")
    again = from_run(tmp_path / "clip-tiny")
    assert (again.recipe, again.name, again.path) == (loaded.recipe, "clip-tiny", tmp_path / "clip-tiny")


def test_run_uses_its_copy_of_the_experiment(folder, tmp_path):
    loaded = load(f"{folder}/clip.py:own")
    save(loaded, tmp_path / "run")
    (folder / "clip.py").unlink()
    again = from_run(tmp_path / "run")
    assert to_json(again.recipe)["data"]["train"]["size"] == 3
    assert to_json(again.recipe) == to_json(loaded.recipe)
    assert again.doc == loaded.doc


def test_copy_in_a_run_finds_neighbors_of_the_original(folder, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "mine"
    run.parent.mkdir()
    write(folder, "mine.py", CLIP + "\nfrom experiments import align\n")
    save(load(f"{folder}/mine.py:own"), run)
    monkeypatch.chdir(tmp_path)
    assert to_json(from_run(run).recipe)["data"]["train"]["size"] == 3


def test_copy_is_executed_only_if_a_class_of_it_is_needed(folder, tmp_path):
    save(load(f"{folder}/clip.py:tiny"), tmp_path / "run")
    (tmp_path / "run" / "clip.py").write_text("raise RuntimeError")
    assert from_run(tmp_path / "run").recipe.data.batch_size == 4


def test_run_without_its_copy_is_one_sentence(folder, tmp_path):
    save(load(f"{folder}/clip.py:own"), tmp_path / "run")
    (tmp_path / "run" / "clip.py").unlink()
    with pytest.raises(UsageError, match="should hold one Python file, the copy of its experiment; it holds 0"):
        from_run(tmp_path / "run")


def test_folder_that_is_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"is not a run: it holds no recipe\.json"):
        from_run(tmp_path)
    (tmp_path / "recipe.json").write_text('{\n"seed": }')
    with pytest.raises(UsageError, match=r"recipe\.json is damaged, not JSON: .* line 2"):
        from_run(tmp_path)
    (tmp_path / "recipe.json").write_text(
        json.dumps({"$format": 1, "$type": "jaxrep.schedules:Constant", "value": 1.0})
    )
    with pytest.raises(UsageError, match="holds a Constant, not a Recipe"):
        from_run(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps({"$format": 1, "$type": "jaxrep.schedules:Cosine", "start": 1.0}))
    with pytest.raises(UsageError, match=r"recipe\.json: recipe: fields of jaxrep\.schedules:Cosine are missing: end"):
        from_run(tmp_path)
    (tmp_path / "recipe.json").write_bytes(b"\xff\x00")
    with pytest.raises(UsageError, match=r"recipe\.json is damaged, not JSON: 'utf-8' codec"):
        from_run(tmp_path)


# Evaluations


def test_load_evals_of_a_protocol_and_of_a_recipe(folder):
    assert [item.name for item in load_evals(f"{folder}/protocol.py")] == ["retrieval", "more"]
    assert len(load_evals(f"{folder}/protocol.py:tiny")) == 1
    with pytest.raises(
        UsageError, match=r"has no evaluations named 'tyni'; did you mean tiny\? there are: tiny, evals"
    ):
        load_evals(f"{folder}/protocol.py:tyni")
    with pytest.raises(UsageError, match=r"clip\.py has no evaluations named 'recipe'; there are none"):
        load_evals(f"{folder}/clip.py")
    with pytest.raises(UsageError, match=r"protocol\.py:clash\.0\.data\.image_size: "):
        load_evals(f"{folder}/protocol.py:clash")
