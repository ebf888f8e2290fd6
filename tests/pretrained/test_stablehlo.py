"""Exported programs run without jaxrep, with any number of rows, as the towers that they come from."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import jaxrep
from jaxrep.cli import main
from jaxrep.runs.restore import load_run
from tests.helpers.checkpoint_folders import folder
from tests.helpers.trained_model import CLIP, SIGLIP, finished

ALONE = """
import json, sys
from pathlib import Path
import numpy as np
import jax
sys.path[:] = [place for place in sys.path if not (Path(place or ".") / "jaxrep").is_dir()]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
try:
    import jaxrep
except ImportError:
    pass
else:
    raise SystemExit("jaxrep can be imported")
folder, inputs = Path(sys.argv[1]), np.load(sys.argv[2])
described = json.loads((folder / "stablehlo.json").read_text())["towers"]
found = {}
for name, tower in described.items():
    program = jax.export.deserialize(bytearray((folder / tower["program"]).read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
    weights = dict(np.load(folder / tower["weights"]))
    for rows in (1, 5):
        given = [inputs[each["name"]][:rows] for each in tower["inputs"]]
        for each, value in zip(tower["inputs"], given):
            assert each["shape"] == ["b", *value.shape[1:]] and each["dtype"] == value.dtype, each
        found[f"{name}-{rows}"] = np.asarray(program.call(weights, *given))
        assert tower["output"]["shape"] == ["b", *found[f"{name}-{rows}"].shape[1:]]
np.savez(sys.argv[3], **found)
"""


def alone(exported, inputs, tmp_path):
    """Return what the programs compute in a process without jaxrep."""
    np.savez(tmp_path / "inputs.npz", **inputs)
    places = [str(exported), str(tmp_path / "inputs.npz"), str(tmp_path / "found.npz")]
    done = subprocess.run([sys.executable, "-c", ALONE, *places], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "found.npz")


@pytest.fixture(scope="module", params=[CLIP, pytest.param(SIGLIP, marks=pytest.mark.slow)], ids=["clip", "siglip"])
def exported(request, tmp_path_factory):
    """A run and the folder to which it was exported."""
    place = tmp_path_factory.mktemp("exported")
    run, out = finished(place / "run", request.param), place / "out"
    assert main(["export", str(run), "--to", "stablehlo", "--out", str(out)]) == 0
    return run, out


def test_programs_of_a_run_compute_its_embeddings_without_jaxrep(exported, tmp_path):
    run, out = exported
    assert {file.name for file in out.iterdir()} == {
        *("README.md", "stablehlo.json"), *("image.stablehlo", "image.npz", "text.stablehlo", "text.npz"),
        *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
    }  # fmt: skip
    model, draw = load_run(run)[0], np.random.default_rng(0)
    texts = model.tokenize(["a red fox", "snow", "", "one two three four five six seven", "x"])
    inputs = {"image": draw.integers(0, 256, (5, 8, 8, 3), np.uint8), **texts}
    found = alone(out, inputs, tmp_path)
    for rows in (1, 5):
        batch = {name: value[:rows] for name, value in inputs.items()}
        for name in ("image", "text"):
            expected = model.encode({key: x for key, x in batch.items() if key.startswith(name)}, (name,))[name]
            np.testing.assert_allclose(found[f"{name}-{rows}"], expected, atol=1e-6)
    # Each tower has its own weights alone, with those of its head.
    for name, other in (("image", "text"), ("text", "image")):
        assert {path.split("/")[0] for path in np.load(out / f"{name}.npz")} <= {name, f"{name}_head"}, other


def test_code_of_the_card_makes_the_inputs_of_programs(exported, monkeypatch):
    run, out = exported
    monkeypatch.chdir(out)
    model, found = load_run(run)[0], {}
    for code in re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL):
        names = {}
        exec(code, names)
        found["text" if "ids" in names else "image"] = np.asarray(names["embeddings"])
    np.testing.assert_allclose(found["text"], model.encode_text(["a red fox", "a gray wolf"]), atol=1e-6)
    np.testing.assert_allclose(found["image"], model.encode_image(np.ones((2, 8, 8, 3), np.uint8)), atol=1e-6)
    content = json.loads((out / "preprocessor_config.json").read_text())
    assert content["crop_size"] == {"height": 8, "width": 8} and not content["do_normalize"]
    assert not content["do_rescale"]


def test_convolutions_and_running_statistics(tmp_path):
    folder(tmp_path / "resnet", "resnet")
    assert main(["export", str(tmp_path / "resnet"), "--to", "stablehlo", "--out", str(tmp_path / "out")]) == 0
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    found = alone(tmp_path / "out", {"image": images}, tmp_path)
    expected = jaxrep.load(tmp_path / "resnet").encode_image(images)
    np.testing.assert_allclose(found["image-5"], expected, atol=1e-5)


def test_one_tower_of_a_public_checkpoint(tmp_path, capsys):
    folder(tmp_path / "bert", "bert")
    out = tmp_path / "out"
    args = ["export", str(tmp_path / "bert"), "--to", "stablehlo", "--weights", "ema", "--out", str(out)]
    assert main(args) == 2 and "apply to a run" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "bert"), "--to", "stablehlo", "--part", "text", "--out", str(out)]) == 0
    ids = np.random.default_rng(0).integers(1, 40, (5, 19), np.int32)
    ids = np.pad(ids, ((0, 0), (0, 1)))
    valid = ids > 0
    found = alone(out, {"text": ids, "text/valid": valid}, tmp_path)
    expected = jaxrep.load(tmp_path / "bert").encode_text(ids, valid=valid)
    np.testing.assert_allclose(found["text-5"], expected, atol=1e-6)
    tower = json.loads((out / "stablehlo.json").read_text())["towers"]["text"]
    assert tower["output"] == {"shape": ["b", 8], "dtype": "float32", "rows": "of unit length"}


def test_unknown_tower_and_other_layouts_of_a_checkpoint_are_refused(tmp_path, capsys):
    folder(tmp_path / "clip")
    args = ["export", str(tmp_path / "clip"), "--out", str(tmp_path / "out")]
    assert main([*args, "--to", "stablehlo", "--part", "img"]) == 2
    assert "--part img names no tower that embeds one field alone; did you mean image?" in capsys.readouterr().err
    assert main([*args, "--to", "open_clip"]) == 2
    assert "is a public checkpoint already: it exports --to stablehlo" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
