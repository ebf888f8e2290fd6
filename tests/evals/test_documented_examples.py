"""The examples of docs/evaluation.md run as they are written, on small files in the folders that they name."""

import json
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tars
from tests.helpers.pages import Reader, blocks, one_device
from tests.helpers.trained_model import VIT, finished

EXAMPLES = [block.text for block in blocks("docs/evaluation.md") if block.language == "python"]
NAMES = ("hen", "cat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and every file that an example names."""
    place = tmp_path_factory.mktemp("evaluation")
    finished(place / "runs/clip", VIT)
    random = np.random.default_rng(0)

    def picture(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)

    picture(place / "picture.png")
    for name in ("cifar10", "food101"):
        root = place / "wds" / name
        (root / "test").mkdir(parents=True)
        members = [
            (f"{i}.{end}", content)
            for i in range(4)
            for end, content in (("png", tars.picture(i)), ("cls", b"01"[i % 2 : i % 2 + 1]))
        ]
        tars.write(root / "test/0.tar", members)
        (root / "test/nshards.txt").write_text("1")
        (root / "classnames.txt").write_text("\n".join(NAMES))
        (root / "zeroshot_classification_templates.txt").write_text("a {c}.\nmy {c}!")
    for part in ("train", "test"):
        for i in range(3):
            picture(place / part / f"pictures/{i}.png")
            (place / part / "maps").mkdir(exist_ok=True)
            Image.fromarray(random.integers(2, size=(8, 8), dtype=np.uint8)).save(place / part / f"maps/{i}.png")
    for i, name in enumerate(NAMES * 2):
        picture(place / f"birds/test/{name}/{i}.jpg")
    (place / "descriptors.json").write_text(json.dumps({name: ["legs", "a tail"] for name in NAMES}))
    for listing, images in (
        ("coco/dataset_coco.json", "coco/val2014"),
        ("flickr30k/dataset_flickr30k.json", "flickr30k/flickr30k-images"),
    ):
        rows = [
            {"filename": f"{i}.jpg", "split": "test", "sentences": [{"raw": f"red {i}{k}"} for k in range(5)]}
            for i in range(3)
        ]
        rows = [row | ({"filepath": "val2014"} if "coco" in listing else {}) for row in rows]
        for row in rows:
            picture(place / images / row["filename"])
        (place / listing).write_text(json.dumps({"images": rows}))
    beir = place / "beir/scifact"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text(
        "".join(f'{{"_id": "d{i}", "title": "", "text": "red {i}"}}\n' for i in range(4))
    )
    (beir / "queries.jsonl").write_text('{"_id": "q", "text": "red"}\n')
    (beir / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    (place / "stsb").mkdir()
    rows = [f"red {i}\tblue {i}\t{i}" for i in range(4)]
    (place / "stsb/test.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    return place


@pytest.fixture
def stubs(monkeypatch):
    """Stand for mteb, clip_benchmark and torch, with what the examples take from them; return the calls."""
    calls = {}

    def record(name):
        return lambda *args, **options: calls.update({name: (args, options)})

    rows = [(np.zeros((8, 8, 3), np.uint8), ["red"])]
    benchmark = types.SimpleNamespace(batched=lambda size: rows, classes=NAMES, templates=("a {c}.",))
    modules = {
        "mteb": {"evaluate": record("mteb"), "get_tasks": lambda tasks: tasks},
        "torch": {"from_numpy": lambda x: x, "Tensor": type("Tensor", (), {})},  # SciPy asks whether a value is one
        "torch.utils": {},
        "torch.utils.data": {"DataLoader": lambda data, **options: data},
        "clip_benchmark": {},
        "clip_benchmark.datasets": {},
        "clip_benchmark.datasets.builder": {
            "build_dataset": lambda name, *, root, transform, split: benchmark,
            "get_dataset_collate_fn": lambda name: list,
        },
        "clip_benchmark.metrics": {
            "zeroshot_retrieval": types.SimpleNamespace(evaluate=record("retrieval")),
            "zeroshot_classification": types.SimpleNamespace(evaluate=record("classification")),
        },
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def written(text):
    """An example of a smaller size, on the one run that there is."""
    text = text.replace("image_size=518", "image_size=8").replace(
        "evals.LinearProbe(", "evals.LinearProbe(max_iterations=3, "
    )
    return re.sub(r'"runs/[\w-]+"', '"runs/clip"', text)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number, folder, monkeypatch, stubs):
    monkeypatch.chdir(folder)
    one_device(monkeypatch)
    reader = Reader(f"evaluation_{number}")  # each example is complete: it imports what it names
    exec(compile(written(EXAMPLES[number]), f"example {number}", "exec"), vars(reader.module))
    if "metrics = " in EXAMPLES[number]:
        assert reader.module.metrics and np.isfinite([*reader.module.metrics.values()]).all()
    for name, (args, options) in stubs.items():
        if name == "mteb":
            (encoder,), tasks = args, options["tasks"]
            assert encoder.encode([{"text": ["red"]}], prompt_type="query").shape == (1, 6) and "SciFact" in tasks
        else:
            model, _, tokenize = args[:3]
            assert model.encode_text(tokenize(["red"])).shape == (1, 6)
            assert model.encode_image(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 6)
