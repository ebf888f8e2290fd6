"""A stranger's path: what the README and the tutorial show works as they show it, each step in turn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxrep
from jaxrep.data import OpenMoji
from tests.helpers.pages import ROOT, Block, Reader, blocks, one_device

QUICK = ("--data.batch-size", "64", "--examples", "128")
"""Flags that shorten a training to two steps."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which ``jaxrep train clip:tiny`` ran, for two steps, on one device."""
    place = tmp_path_factory.mktemp("stranger")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        one_device(patch)
        install, train = next(block for block in blocks("README.md") if block.text.startswith("pip")).text.splitlines()
        assert install == "pip install -e ."
        Reader("install").command(train, *QUICK)
        Image.fromarray(OpenMoji(image_size=32).open()[0]["image"]).save("picture.png")
    return place


@pytest.fixture
def reader(folder, monkeypatch, request):
    monkeypatch.chdir(folder)
    one_device(monkeypatch)
    return Reader(request.node.name)


def python(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def test_readme_classifies_and_compares(reader):
    first = python("README.md")[0]
    lines = first.text.replace("model.classify", "classes = model.classify").replace("model.sim", "cosines = model.sim")
    reader.read(Block("python", lines, ""))
    assert reader.module.classes.shape == (1, 3)
    np.testing.assert_allclose(reader.module.classes.sum(), 1, rtol=1e-5)
    assert reader.module.cosines.shape == (1, 2)


def test_readme_recipe_trains(reader):
    reader.read(next(block for block in blocks("README.md") if block.file == "mine.py"))
    reader.command("jaxrep train mine.py", "--examples", "256")
    assert "retrieval/image_to_text/r1" in jaxrep.open_run("runs/mine-recipe").results


def test_readme_opens_evaluates_and_embeds_a_run(reader):
    reader.read(python("README.md")[2])
    assert "retrieval/image_to_text/r1" in reader.module.metrics
    assert len(reader.module.embeddings["image"]) == len(reader.module.embeddings["key"]) == 398


@pytest.mark.slow
def test_tutorial_first_run(reader):
    commands = [line for block in blocks("docs/tutorial/first_run.md") for line in block.commands]
    train, other, diff, compare = commands
    assert train == "jaxrep train clip:tiny"
    reader.command(other, *QUICK)
    reader.command(diff)
    reader.command(compare)
    for block in python("docs/tutorial/first_run.md"):
        reader.read(block)
    assert reader.module.model.encode_text(["red heart"]).shape == (1, 96)


@pytest.mark.slow
def test_tutorial_own_data(reader, capsys):
    for block in blocks("docs/tutorial/own_data.md"):
        reader.read(block)
        for line in block.commands:
            reader.command(line, *(("--epochs", "0", "--examples", "64") if " train " in line else ()))
    assert "retrieval/image_to_text/r1" in jaxrep.open_run("runs/shapes-recipe").results
    assert jaxrep.open_run("runs/kept").results and capsys.readouterr().out.count("96 48 36\n") == 1


@pytest.mark.slow
def test_tutorial_own_recipe(reader):
    for block in blocks("docs/tutorial/own_recipe.md"):
        reader.read(block)
        for line in block.commands:
            if line.startswith("jaxrep train clip:tiny"):  # checked without training, which the first run does
                line = line.replace("train", "show").partition(" --run-dir")[0]
            reader.command(line, *(QUICK if " train " in line else ()))
    assert Path("runs/wide-quick/results.json").exists()
    assert reader.module.locked.init["image"].path == "vit-base-patch32"


def test_tutorial_pod_names_files_that_exist():
    text = "".join(block.text for block in blocks("docs/tutorial/pod.md"))
    for name in ("launch/tpu_pod.sh", "launch/local.py"):
        assert name in text and (ROOT / name).exists()
