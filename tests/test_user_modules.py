"""A user's files are executed under names of their own: whatever they are called, the file on disk decides."""

import json
import pickle
import subprocess
import sys

import pytest

from jaxrep.errors import UsageError
from jaxrep.experiment import load
from jaxrep.spec_json import to_json
from jaxrep.user_modules import load_module, place_of

FILE = '''
"""A recipe of a user's own."""
from jaxrep import Data, Recipe, data, encoders, methods, optim, schedules
from jaxrep.spec import spec


@spec
class Toy(data.WrappedSource):
    size: int = 8

    def open(self):
        raise KeyError("no such column")


recipe = Recipe(
    data=Data(train=Toy(source=data.Csv(path="pairs.csv")), batch_size=4),
    method=methods.SingleEncoder(name="image", encoder=encoders.ViT(width=8, depth=1, heads=1)),
    objective={},
    optimizer=optim.AdamW(),
    schedule=schedules.Constant(value=1.0),
    examples=8,
)
tiny = recipe.replace(seed=SEED)
'''


@pytest.fixture(autouse=True)
def search_path(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


def write(path, text, seed=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("SEED", str(seed)))
    return path


NAMES = [
    "jaxrep/recipe.py",
    "jaxrep/model.py",
    "flax/core.py",
    "email/message.py",
    "json.py",
    "my.project/clip.v2.py",
    "2024-06-01T10:30/clip.py",
    "seed=0[1]/a%2Eb c.py",
]


@pytest.mark.parametrize("name", NAMES)
def test_file_of_any_name_is_loaded(tmp_path, name):
    for target in (name, tmp_path / name):
        file = write(tmp_path / name, FILE)
        loaded = load(f"{target}:tiny")
        assert loaded.module and (loaded.recipe.seed, loaded.module.__file__) == (1, str(file))
        assert load(str(target)).recipe.seed == 0
        assert to_json(loaded.recipe)["data"]["train"]["$type"] == "experiment:Toy"


@pytest.mark.parametrize("package", ["flax", "email", "jaxrep", "my_package"])
def test_file_of_a_package_with_any_name_finds_its_neighbors(tmp_path, package):
    write(tmp_path / package / "__init__.py", "")
    write(tmp_path / package / "sizes.py", "SMALL = 3\n")
    file = write(tmp_path / package / "core.py", "from . import sizes\nsize = sizes.SMALL\n")
    module = load_module(file)
    assert (module.size, module.__file__) == (3, str(file))


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for seed in (1, 2):
        write(tmp_path / str(seed) / "same" / "clip.py", FILE, seed)
    assert [load(f"{tmp_path}/{seed}/same/clip.py:tiny").recipe.seed for seed in (1, 2, 1)] == [1, 2, 1]


def test_loose_file_finds_its_neighbors_by_relative_imports(tmp_path):
    write(tmp_path / "mine" / "sizes.py", "SMALL = 3\n")
    assert load_module(write(tmp_path / "mine" / "clip.py", "from . import sizes\nsize = sizes.SMALL\n")).size == 3
    wrong = write(tmp_path / "mine" / "wrong.py", "import sizes\n")
    with pytest.raises(UsageError, match=r"wrong\.py, line 1: .*; sizes\.py lies beside it: write `from . import"):
        load_module(wrong)


@pytest.mark.parametrize("name", NAMES[-3:])
def test_classes_are_found_by_another_process(tmp_path, name):
    recipe = load(str(write(tmp_path / name, FILE))).recipe
    program = [sys.executable, "-P", "-c", "import pickle, sys; print(pickle.load(sys.stdin.buffer).data.train.size)"]
    done = subprocess.run(program, input=pickle.dumps(recipe), capture_output=True, check=True)
    assert done.stdout == b"8\n"


def test_part_of_a_second_file_is_refused_with_its_file(tmp_path):
    write(tmp_path / "mine" / "parts.py", FILE)
    file = write(tmp_path / "mine" / "clip.py", "from . import parts\n\nrecipe = parts.recipe\n")
    with pytest.raises(UsageError) as error:
        load(str(file))
    assert f"data.train is a Toy of {tmp_path}/mine/parts.py; a run keeps a copy of one file" in str(error.value)
    assert str(error.value).endswith(f"define Toy in {file}")


@pytest.mark.parametrize("target", ["2024:10/none.py", "none:10.py", "none.py:tiny"])
def test_missing_file_with_a_colon_is_named_whole(target):
    with pytest.raises(UsageError, match=rf"^{target.removesuffix(':tiny')} does not exist"):
        load(target)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("x = 1\n".encode("utf-16"), r"wrong\.py.*: .*(null bytes|utf-8)"),
        ("x = 'ä'\n".encode("latin-1"), r"wrong\.py.*: .*utf-8"),
        (b"x = (\n", r"wrong\.py, line 1: '\(' was never closed"),
    ],
)
def test_file_that_is_not_python_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "wrong.py").write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        load_module("wrong.py")


def test_error_in_a_user_s_part_names_file_line_and_part(tmp_path):
    file = write(tmp_path / "clip.py", FILE)
    with pytest.raises(KeyError) as error:
        load(str(file)).recipe.data.train.open()
    assert place_of(error.value) == f"{file}, line 12, in Toy.open"


def test_error_of_a_library_has_no_place_in_a_user_s_code():
    try:
        json.loads("{")
    except ValueError as error:
        assert error.__traceback__
        assert place_of(error.with_traceback(error.__traceback__.tb_next)) is None
