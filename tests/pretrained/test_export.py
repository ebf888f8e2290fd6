"""Exported models load again as the same model; errors name the field that a layout cannot express."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxrep
from jaxrep.cli import main
from jaxrep.data.tokenizers.base import Bytes, Words
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.encoders.image.stem import ConvStem
from jaxrep.pretrained.tokenizer_writer import pipeline
from jaxrep.runs.restore import load_run, restore
from jaxrep.step.shapes import validate
from tests.helpers.pages import Reader, blocks
from tests.helpers.trained_model import CLIP, VIT, clip_tokenizer, finished, learned_tokenizer

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)


CONV_STEM = (
    "method.towers.image.stem is a ConvStem, which transformers and open_clip do not have (they have a PatchStem): "
    "--to safetensors writes any model"
)


def changed(tower, **fields):
    return dataclasses.replace(CLIP, towers={**CLIP.towers, tower: dataclasses.replace(CLIP.towers[tower], **fields)})


def test_export_to_open_clip_and_safetensors(tmp_path):
    run = finished(tmp_path / "run", changed("image", layer_scale=0.1, activation="gelu"), clip_tokenizer(tmp_path))
    arrays = restore(run).arrays
    out = tmp_path / "plain"
    assert main(["export", str(run), "--to", "safetensors", "--out", str(out)]) == 0
    assert (out / "recipe.json").read_bytes() == (run / "recipe.json").read_bytes()
    tensors = load_file(out / "model.safetensors")
    assert tensors.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(tensors[name], value)
    # One activation for both towers is all that open_clip can say.
    assert main(["export", str(run), "--to", "open_clip", "--out", str(tmp_path / "refused")]) == 2
    run = finished(tmp_path / "second", changed("image", layer_scale=0.1), clip_tokenizer(tmp_path))
    assert main(["export", str(run), "--to", "open_clip", "--out", str(tmp_path / "open")]) == 0
    original, exported = load_run(run)[0], jaxrep.load(tmp_path / "open")
    np.testing.assert_allclose(exported.encode_image(PICTURES), original.encode_image(PICTURES), atol=1e-6)
    np.testing.assert_allclose(exported.encode_text(["a red fox"]), original.encode_text(["a red fox"]), atol=1e-6)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (changed("text", causal=False), "method.towers.text.causal is False, and the layout of CLIP in transformers"),
        (changed("image", pool="mean"), "method.towers.image.pool is 'mean', and the layout of CLIP in transformers"),
        (changed("image", stem=ConvStem(channels=(4,))), CONV_STEM),
        (
            dataclasses.replace(CLIP, towers={**CLIP.towers, "image": ResNet(depths=(1,), width=8, bottleneck=False)}),
            "method.towers.image is a ResNet, and a public layout has a ViT there: --to safetensors writes any model",
        ),
        (
            changed("text", causal=False, pool="mean", activation="silu", qkv_bias=False),
            "method.towers.text.qkv_bias is False, and the layout of CLIP in transformers has True there; "
            "method.towers.text.causal is False, and the layout has True there; method.towers.text.pool is 'mean', and "
            "the layout has 'eos' there: --to safetensors writes any model",
        ),
    ],
)
def test_model_that_a_layout_cannot_express_is_refused(tmp_path, capsys, method, message):
    run = finished(tmp_path / "run", method)
    assert main(["export", str(run), "--to", "transformers", "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
@pytest.mark.parametrize("template", ["[BOS] $A", "[BOS] $A [BOS]"])
def test_tokenizer_without_an_end_token_of_its_own_is_refused(tmp_path, capsys, layout, template):
    run = finished(tmp_path / "run", changed("text", end="highest"), learned_tokenizer(tmp_path, template))
    assert main(["export", str(run), "--to", layout, "--out", str(tmp_path / "out")]) == 2
    said = "data.tokenizer is a TokenizerFile that does not end every text with a token of its own, and transformers"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bidirectional_text_tower_of_open_clip_reads_padding(tmp_path, capsys):
    run = finished(tmp_path / "run", changed("text", causal=False), clip_tokenizer(tmp_path))
    assert main(["export", str(run), "--to", "open_clip", "--out", str(tmp_path / "out")]) == 2
    assert "open_clip's bidirectional text tower reads padding as text" in capsys.readouterr().err


def test_difference_of_one_tower_names_its_field_of_the_recipe(tmp_path, capsys):
    run = finished(tmp_path / "run", changed("image", pool="mean"))
    args = ["--to", "transformers", "--part", "image", "--out", str(tmp_path / "out")]
    assert main(["export", str(run), *args]) == 2
    said = capsys.readouterr().err
    assert "method.towers.image.pool is 'mean', and the layout has 'cls' there: --to safetensors" in said
    assert "encoder" not in said


def test_example_of_the_guide_exports_to_both_layouts(tmp_path):
    (example,) = (block for block in blocks("docs/checkpoints.md") if block.file)
    reader = Reader("exportable")
    exec(example.text, vars(reader.module))
    recipe = vars(reader.module)["recipe"]
    validate(recipe)
    run = finished(tmp_path / "run", recipe.method, recipe.data.tokenizer)
    for layout in ("transformers", "open_clip"):
        assert main(["export", str(run), "--to", layout, "--out", str(tmp_path / layout)]) == 0
        exported = jaxrep.load(tmp_path / layout)
        original = load_run(run)[0]
        np.testing.assert_allclose(exported.encode_text(["a red fox"]), original.encode_text(["a red fox"]), atol=1e-6)


@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
def test_part_without_a_counterpart_is_named(tmp_path, capsys, layout):
    run = finished(tmp_path / "run", changed("image", stem=ConvStem(channels=(4,))))
    assert main(["export", str(run), "--to", layout, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip() == f"jaxrep: error: {CONV_STEM}"


def test_nonempty_folder_and_unknown_part_are_refused(tmp_path, capsys):
    run = finished(tmp_path / "run", VIT)
    assert main(["export", str(run), "--to", "safetensors", "--out", str(run)]) == 2
    assert "name a folder that is new or empty" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "transformers", "--out", str(tmp_path / "o"), "--part", "img"]) == 2
    assert "--part img names no encoder of DualEncoder; did you mean image?" in capsys.readouterr().err


@pytest.mark.parametrize("spec", [Words(length=8), Bytes(length=64)])
def test_written_tokenizer_gives_the_same_ids(spec):
    texts = ["A medium-light Été, isn't it?", "snow ☃ man"]
    loaded = spec.load(texts)
    made = pipeline(spec, loaded)
    made.enable_truncation(spec.length)
    for text in texts:
        ids, valid = (value[0] for value in loaded([text]))
        assert made.encode(text).ids == ids[valid].tolist()
