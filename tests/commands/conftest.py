"""A run of two steps on twelve drawn pictures and their captions, which commands on models share."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.training.loop import train
from tests.helpers.harness import LOADED, RECIPE


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of twelve PNG files of 20 x 16 pixels, and ``pairs.csv`` with their captions."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = ["filepath,title"]
    for n in range(12):
        noise = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        noise.resize((20, 16), Image.Resampling.BICUBIC).save(folder / f"{n:02}.png")
        lines.append(f"{n:02}.png,picture {n}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def run_dir(pictures, tmp_path_factory):
    """A run directory with a model of 8 x 8 pixels and a joint space of 4."""
    source = Csv(path=str(pictures / "pairs.csv"), image_size=8)
    recipe = RECIPE.replace(
        {"data.train": source, "data.tokenizer": Bytes(length=16), "evals": (Retrieval(data=source),), "examples": 16}
    )
    folder = tmp_path_factory.mktemp("runs") / "micro"
    assert train(recipe, folder, LOADED) == 0
    return folder


@pytest.fixture(scope="session")
def results(run_dir):
    """What training wrote at its end."""
    return json.loads((run_dir / "results.json").read_text())
