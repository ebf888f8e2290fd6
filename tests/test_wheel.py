"""A wheel that is installed without its checkout finds the experiments and trains them from any folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("jaxrep", "experiments", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the files of the wheel, as they lie in site-packages."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", source / "dist", source], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    target = tmp_path_factory.mktemp("site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def jaxrep(installed: Path, folder: Path, *args: str) -> str:
    """What the installed program prints when it runs in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    code = "import jaxrep, sys; from jaxrep.cli import main; print(jaxrep.__file__, file=sys.stderr); sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stderr.splitlines()[0]
    return done.stdout


def test_wheel_lists_experiments_in_an_empty_folder(installed, tmp_path):
    listed = jaxrep(installed, tmp_path, "list", "--match", "clip")
    assert "image_text/" in listed and "recipe vit_b16 vit_b32" in " ".join(listed.split())
    assert "common" not in listed


def test_wheel_shows_an_experiment_in_an_empty_folder(installed, tmp_path):
    assert "parameters: " in jaxrep(installed, tmp_path, "show", "clip:tiny")


def test_wheel_trains_an_experiment_in_an_empty_folder(installed, tmp_path):
    small = ("--data.batch-size", "16", "--examples", "32", "--log.no-tensorboard")
    jaxrep(installed, tmp_path, "train", "clip:tiny", *small)
    run = tmp_path / "runs" / "clip-tiny"
    assert (run / "results.json").is_file() and (run / "clip.py").is_file()


def test_own_experiment_imports_one_of_the_wheel(installed, tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(
        '"""Mine."""\nfrom experiments.image_text import clip\n\nrecipe = clip.tiny.replace(seed=7)\n'
    )
    assert '"seed": 7' in jaxrep(installed, tmp_path, "show", "mine", "--json")
    listed = jaxrep(installed, tmp_path, "list")
    assert "Mine." in listed and "siglip" in listed
