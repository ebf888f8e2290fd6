"""A card says what the run knows, in a header that hubs read, and nothing else."""

import json

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from jaxrep.cli import main
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.metrics import sample
from jaxrep.metrics.sample import Sample
from jaxrep.pretrained.model_card import Card
from jaxrep.recipe import Pretrained
from jaxrep.step.shapes import trace_shapes
from tests.helpers.harness import RECIPE
from tests.helpers.trained_model import CLIP, finished, pairs

TOKEN = "hf_" + "abcDEF0123456789" * 2 + "ab"
URL = f"https://user:hunter2@host/a.tar?token={TOKEN}"


def card(**changes):
    """The card of a small CLIP without a run."""
    fields = trace_shapes(RECIPE).fields
    arrays = {"image/a": np.zeros((3, 4)), "text/a": np.zeros(5)}
    return Card(**{**dict(name="org/name", layout="safetensors", method=CLIP, fields=fields, arrays=arrays), **changes})


def header(text):
    """The header as the hub's own client reads it."""
    read = ModelCard(text).data.to_dict()
    assert read == yaml.safe_load(text.split("---\n")[1])
    return read


def test_what_is_unknown_is_left_out():
    text = card().text()
    assert header(text) == {
        "library_name": "jaxrep",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["jaxrep", "contrastive-learning"],
    }
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# name"]
    assert "A `DualEncoder` with 17 parameters." in text


def test_card_of_a_recipe_states_its_data_its_start_and_its_results():
    recipe = RECIPE.replace(
        {
            "data.train": TarShards(shards=(URL, "hf://datasets/org/pairs@main/{0..3}.tar")),
            "init": {"image": Pretrained("hf://org/base@v1"), "text": Pretrained("folder")},
            "evals": (Retrieval(data=TarShards(shards="test.tar"), name="held|out"),),
        }
    )
    values = Sample(np.tile([0.0, 1.0], 100))
    text = card(
        recipe=recipe,
        address="hf://org/name",
        paper="CLIP: Learning (Radford et al. 2021, arXiv:2103.00020).",
        license="cc-by-4.0",
        results={"held|out/r1": values, "held|out/rank": 3.0, "held|out/none": float("nan")},
        step=40,
        environment={"devices": {"kind": "TPU v4", "count": 8}, "versions": {"jaxrep": "1.2", "jax": None}},
    ).text()
    assert header(text) == {
        "license": "cc-by-4.0",
        "library_name": "jaxrep",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["jaxrep", "contrastive-learning"],
        "datasets": ["org/pairs"],
        "base_model": ["org/base"],
    }
    for line in (
        'import jaxrep\nmodel = jaxrep.load("hf://org/name")\n',
        "| length | 80 examples |\n| batch size | 8 |",
        "| steps of these weights | 40 |",
        "| devices | 8 x TPU v4 |\n| jaxrep | 1.2 |\n",
        "| start of text | `Pretrained(path='folder')` |",
        "| `held\\|out/r1` | 0.5 | 0.",
        "| `held\\|out/rank` | 3 |  |",
        "Please cite the paper of the recipe: CLIP: Learning (Radford et al. 2021, arXiv:2103.00020).",
    ):
        assert line in text, (line, text)
    assert "held\\|out/none" not in text and "nan" not in text
    for secret in ("hunter2", TOKEN):
        assert secret not in text


@pytest.mark.parametrize("layout", ["transformers", "open_clip", "stablehlo"])
def test_card_of_a_layout_says_how_its_library_loads_it(layout):
    towers = ("image", "text") if layout == "stablehlo" else ()
    text = card(layout=layout, address="" if towers else "hf://org/name", towers=towers).text()
    loads = {
        "transformers": 'import transformers\nmodel = transformers.AutoModel.from_pretrained("org/name")\n',
        "open_clip": 'open_clip.create_model_from_pretrained("hf-hub:org/name")\n',
        "stablehlo": 'program = jax.export.deserialize(open("image.stablehlo", "rb").read())\n',
    }
    assert loads[layout] in text
    assert ('program.call(dict(numpy.load("text.npz")), ids, valid)' in text) == bool(towers)
    assert header(text)["library_name"] == ("jaxrep" if layout == "stablehlo" else layout)


def write(run, results, lines):
    sample.save(run / "samples.npz", results)
    (run / "results.json").write_text(json.dumps(results))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_results_are_those_of_the_exported_weights(tmp_path):
    evals = (Retrieval(data=pairs(tmp_path / "pairs"), name="held"),)
    run = finished(tmp_path / "run", CLIP, evals=evals, **{"data.train": pairs(tmp_path / "pairs")})

    def exported(name, *args):
        out = tmp_path / name
        assert main(["export", str(run), "--to", "safetensors", "--out", str(out), *args]) == 0
        return (out / "README.md").read_text()

    assert "## Evaluation" not in exported("unmeasured")
    line = {"step": 1, "loss": 2.5, "held/r1": 0.25}
    write(run, {"held/r1": 0.25}, [line])
    assert "| `held/r1` | 0.25 |" in exported("final") and "loss" not in exported("again")
    assert "## Evaluation" not in exported("raw", "--weights", "raw")
    # The results are of a later step than the checkpoint, which has a line of its own.
    write(run, {"held/r1": 0.75}, [line, {"step": 2, "held/r1": 0.75}])
    assert "| `held/r1` | 0.25 |" in exported("earlier")


def test_exported_recipe_holds_no_secret(tmp_path):
    run = finished(tmp_path / "run", CLIP, **{"data.train": pairs(tmp_path / "pairs")})
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["log"]["wandb"] = URL  # an execution field, which checkpoints do not compare
    (run / "recipe.json").write_text(json.dumps(recipe))
    assert main(["export", str(run), "--to", "safetensors", "--out", str(tmp_path / "out")]) == 0
    for file in (tmp_path / "out").iterdir():
        content = file.read_bytes().decode(errors="replace")
        assert "hunter2" not in content and TOKEN not in content, file
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["log"]["wandb"] == "https://host/a.tar?…"
