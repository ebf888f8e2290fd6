"""Experiment files have short names in a checkout and elsewhere; listing executes nothing."""

import textwrap
from pathlib import Path

import pytest

from jaxrep import experiment_files
from jaxrep.errors import UsageError
from jaxrep.experiment_files import find_file, list_experiments
from jaxrep.user_modules import load_module

RECIPE = '"""TITLE (Author 2024, arXiv:2401.00001)."""\nrecipe = Recipe()\ntiny = recipe.replace({})\n'


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with experiments in two fields; the current folder lies below it."""
    for name in ("image_text/clip", "image_text/siglip", "vision/rad_dino", "mine"):
        file = tmp_path / "experiments" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(RECIPE)
    (tmp_path / "experiments" / "common.py").write_text("SIZE = 48\n")
    (tmp_path / "notes" / "today").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notes" / "today")
    return tmp_path


def write(file: Path, text: str) -> Path:
    file.write_text(textwrap.dedent(text).lstrip())
    return file


# Finding


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("clip", "experiments/image_text/clip.py"),
        ("mine", "experiments/mine.py"),
        ("vision.rad_dino", "experiments/vision/rad_dino.py"),
        ("experiments.image_text.siglip", "experiments/image_text/siglip.py"),
    ],
)
def test_short_name_is_found_from_a_folder_below_the_checkout(checkout, target, file):
    assert find_file(target) == checkout / file


def test_path_is_taken_as_it_is(checkout):
    assert find_file("some/clip.py") == Path("some/clip.py")
    assert find_file("clip.py") == Path("clip.py")


def test_short_name_in_the_current_folder_is_shown_relative_to_it(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    assert find_file("clip") == Path("experiments/image_text/clip.py")


def test_short_name_outside_of_a_checkout_is_that_of_jaxrep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file("metrix").parts[-3:] == ("experiments", "metric_learning", "metrix.py")


def test_names_of_jaxrep_are_found_beside_own_ones(checkout):
    assert find_file("metrix").is_relative_to(Path(experiment_files.__file__).parents[1])
    assert find_file("clip").is_relative_to(checkout)


def test_unknown_short_name_gives_the_nearest(checkout):
    with pytest.raises(UsageError, match="there is no experiment named 'siglop'; did you mean siglip") as error:
        find_file("siglop")
    assert "`jaxrep list` shows all" in str(error.value)
    assert len(str(error.value)) < 250


def test_two_files_of_one_name_are_an_error_with_both_paths(checkout):
    write(checkout / "experiments" / "vision" / "clip.py", RECIPE)
    with pytest.raises(UsageError) as error:
        find_file("clip")
    for folder in ("image_text", "vision"):
        assert str(checkout / "experiments" / folder / "clip.py") in str(error.value)
    assert find_file("vision.clip") == checkout / "experiments" / "vision" / "clip.py"


def test_module_of_a_package_is_found_by_its_dotted_name_and_imports_its_neighbors(tmp_path, monkeypatch):
    package = tmp_path / "project" / "recipes"
    package.mkdir(parents=True)
    write(package.parent / "__init__.py", "")
    write(package / "__init__.py", "")
    write(package / "sizes.py", "SMALL = 3\n")
    write(package / "own.py", "from . import sizes\n\nsize = sizes.SMALL\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*experiment_files.sys.path])
    module = load_module("project.recipes.own")
    assert (module.__name__, module.size) == ("project.recipes.own", 3)
    with pytest.raises(UsageError, match=r"there is no experiment named 'project\.recipes\.none'"):
        find_file("project.recipes.none")


# Listing


def test_listing_shows_folders_papers_and_presets(checkout):
    rows = [file for file in list_experiments() if file.path.is_relative_to(checkout)]
    assert [(file.folder, file.name) for file in rows] == [
        ("", "mine"),
        ("image_text", "clip"),
        ("image_text", "siglip"),
        ("vision", "rad_dino"),
    ]
    assert {file.presets for file in rows} == {("recipe", "tiny")}
    assert {file.paper for file in rows} == {"TITLE (Author 2024, arXiv:2401.00001)."}
    hidden = [file for file in list_experiments() if file.name == "clip"]
    assert [file.path for file in hidden] == [checkout / "experiments/image_text/clip.py"]


def test_listing_executes_nothing_and_finds_presets_in_all_forms(tmp_path):
    write(
        tmp_path / "made.py",
        """
        def make(n) -> Recipe: ...

        small = make(3)
        big: Recipe = make(5)
        same = big
        other = len("")
        raise RuntimeError("executed")
        """,
    )
    write(tmp_path / "protocol.py", 'LABELS = ("a", "b")\ntiny = make()\nevals = (*tiny, 3)\n')
    write(tmp_path / "helper.py", '"""No experiment."""\nlabels = ("a", "b")\n')
    assert [(file.name, file.presets) for file in list_experiments(tmp_path)] == [
        ("made", ("small", "big", "same")),
        ("protocol", ("tiny", "evals")),
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("clip", ["clip"]),
        ("lip", ["clip", "siglip"]),
        ("CLIP*", ["clip"]),
        ("vision", ["rad_dino"]),
        ("image_text/s*", ["siglip"]),
        ("2401.00001", ["mine", "clip", "siglip", "rad_dino"]),
        ("nothing", []),
    ],
)
def test_match_filters_by_name_folder_and_paper(checkout, pattern, names):
    files = list_experiments(checkout / "experiments")
    assert [file.name for file in files if file.matches(pattern)] == names


def test_listing_refuses_a_missing_folder_and_a_syntax_error(tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        list_experiments(tmp_path / "nowhere")
    write(tmp_path / "wrong.py", "x = (\n")
    with pytest.raises(UsageError, match=r"wrong\.py, line 1: '\(' was never closed"):
        list_experiments(tmp_path)
