"""Parts of a recipe that start from a public checkpoint: loaded, resized, missing, unused and refused arrays."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.bert import Bert
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.encoders.text.triple_transformer import TripleTransformer
from jaxrep.errors import UsageError
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.optim.rules import Freeze
from jaxrep.pretrained.partial_load import partial_load
from jaxrep.pretrained.resize import resize_kernel, resize_positions, stretch_positions
from jaxrep.recipe import Pretrained
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.restore import restore
from jaxrep.spec import problems, spec
from jaxrep.spec_json import from_json, to_json
from jaxrep.step.shapes import validate
from jaxrep.step.train_state import TrainState
from jaxrep.training.loop import train
from jaxrep.training.warm_start import warm_start
from tests.helpers import harness
from tests.helpers.checkpoint_folders import folder
from tests.helpers.harness import RECIPE, drawn

SIZE = dict(width=8, depth=2, heads=2, mlp_ratio=1.5, activation="quick_gelu")
IMAGE = ViT(**SIZE, stem=PatchStem(patch=4, bias=False), embed_norm=True)
TEXT = TextTransformer(**SIZE)


def recipe(image=IMAGE, text=TEXT, init=None):
    return RECIPE.replace(method=DualEncoder(towers={"image": image, "text": text}, dim=6), init=init or {})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Write a tiny CLIP for images of 8 x 8 pixels; return its folder and its parameters by path."""
    path = tmp_path_factory.mktemp("public") / "clip"
    return str(path), folder(path)[0]


def match(path, origin, recipe):
    return partial_load(path, origin, recipe.method, harness.traced(recipe))


def test_init_loads_one_part_and_keeps_the_others(clip, tmp_path):
    path, checkpoint = clip
    setup = harness.set_up(recipe(init={"image": Pretrained(path), "scale": Pretrained(path)}), tmp_path)
    before = jax.tree.map(jax.numpy.asarray, drawn(setup.shapes.arrays))
    state = TrainState(before, {}, {}, {}, np.int32(0), np.int32(0), None)
    with harness.logged() as messages:
        after = warm_start(setup, state, {}).params
    for name, value in after.items():
        taken = name.startswith(("image/", "scale/"))
        np.testing.assert_array_equal(value, checkpoint[name] if taken else before[name])
    assert messages[0].startswith(
        f"init.image: {sum(name.startswith('image/') for name in checkpoint)} arrays from {path}"
    )
    assert messages[1] == f"init.scale: 1 arrays from {path}"


def test_summary_names_differing_specs(clip):
    path, _ = clip
    summary = match("image", Pretrained(path), recipe(dataclasses.replace(IMAGE, activation="gelu"))).summary()
    assert "trained with another activation: 'quick_gelu' -> 'gelu'" in summary
    assert "trained with another pixels.mean" in summary


def test_missing_and_unused_arrays_are_reported(clip):
    path, checkpoint = clip
    other = ViT(**SIZE, stem=PatchStem(patch=4), pool="mean", layer_scale=0.1)
    load = match("image", Pretrained(path), recipe(other))
    assert load.missing == ["image/blocks/scale1", "image/blocks/scale2", "image/stem/project/bias"]
    assert load.unused == ["image/class_token", "image/embed_norm/bias", "image/embed_norm/scale"]
    assert "left as initialized: image/blocks/scale1, image/blocks/scale2, image/stem/project/bias" in load.summary()
    assert "unused: image/class_token, image/embed_norm/bias, image/embed_norm/scale" in load.summary()
    np.testing.assert_array_equal(load.arrays()["image/positions"], checkpoint["image/positions"])


def test_nested_part_is_loaded_under_another_name(clip):
    path, checkpoint = clip
    load = match("image/blocks", Pretrained(path, part="text/blocks"), recipe()).arrays()
    assert load.keys() == {name for name in checkpoint if name.startswith("image/blocks/")}
    for name, value in load.items():
        np.testing.assert_array_equal(value, checkpoint[name.replace("image", "text")])


@pytest.mark.parametrize("patches", ["pseudo_inverse", "bilinear"])
def test_positions_and_patch_kernels_are_resized(clip, patches):
    path, checkpoint = clip
    smaller = ViT(**SIZE, stem=PatchStem(patch=2, bias=False), embed_norm=True)
    load = match("image", Pretrained(path, patches=patches), recipe(smaller))
    arrays = load.arrays()
    kernel = resize_kernel(checkpoint["image/stem/project/kernel"], 4, 2, pseudo_inverse=patches != "bilinear")
    np.testing.assert_array_equal(arrays["image/stem/project/kernel"], kernel)
    positions = resize_positions(checkpoint["image/positions"], (2, 2), (4, 4), antialias=True)
    np.testing.assert_array_equal(arrays["image/positions"], positions)
    assert "resized image/positions from 2 x 2 to 4 x 4" in load.summary()
    assert "resized image/stem/project/kernel from 4 x 4 to 2 x 2" in load.summary()


def test_shorter_text_keeps_the_first_positions(clip):
    path, checkpoint = clip
    short = recipe().replace({"data.tokenizer.length": 4})
    load = match("text/positions", Pretrained(path), short)
    np.testing.assert_array_equal(load.arrays()["text/positions"], checkpoint["text/positions"][:4])
    assert "resized text/positions from 6 to 4" in load.summary()


def test_longer_text_stretches_positions_on_request(clip):
    path, checkpoint = clip
    longer = recipe().replace({"data.tokenizer.length": 14})
    load = match("text/positions", Pretrained(path, stretch_after=2), longer)
    expected = stretch_positions(checkpoint["text/positions"], 14, 2)
    np.testing.assert_array_equal(load.arrays()["text/positions"], expected)
    assert "resized text/positions from 6 to 14" in load.summary()
    with pytest.raises(UsageError, match="cannot be resized"):
        match("text/positions", Pretrained(path), longer)


WIDE = ViT(**{**SIZE, "width": 12}, stem=PatchStem(patch=4, bias=False), embed_norm=True)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda path: recipe(init={"image": Pretrained("nowhere")}), "init.image: there is no folder nowhere"),
        (
            lambda path: recipe(init={"image": Pretrained(path, part="picture")}),
            "init.image: {path} has no part 'picture'; there are: image, image_head, scale, text, text_head",
        ),
        (
            lambda path: recipe(init={"image_head": Pretrained(path, part="scale")}),
            "init.image_head: 'scale' of {path} has none of its arrays: is it of another kind?",
        ),
        (
            lambda path: recipe(WIDE, init={"image/norm": Pretrained(path)}),
            "init.image/norm: 'image/norm/bias' of {path} has shape (8,), and 'image/norm/bias' has (12,), to which "
            "it cannot be resized",
        ),
        (
            lambda path: recipe(init={"text/embedding": Pretrained(path)}),
            "init.text/embedding: 'text/embedding' of {path} has shape (40, 8), and 'text/embedding' has (16, 8), to "
            "which it cannot be resized",
        ),
        (
            lambda path: recipe(init={"text/positions": Pretrained(path)}).replace({"data.tokenizer.length": 9}),
            "init.text/positions: 'text/positions' of {path} has shape (6, 8), and 'text/positions' has (9, 8), to "
            "which it cannot be resized",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(clip, tmp_path, made, sentence):
    path, _ = clip
    validate(made(path))  # which needs no file
    with pytest.raises(UsageError) as error:
        train(made(path), tmp_path / "run", devices=jax.devices()[:1])
    assert str(error.value) == sentence.format(path=path)
    assert [*tmp_path.iterdir()] == []


def test_pretrained_origin_round_trips_as_json():
    mine = recipe(init={"image": Pretrained("folder", part="text", patches="bilinear")})
    assert from_json(json.loads(json.dumps(to_json(mine))), harness.tiny) == mine
    (sentence,) = problems(recipe(init={"image": Pretrained("folder", patches="cubic")}))
    assert sentence.startswith("init.image.patches: expected Literal['pseudo_inverse', 'bilinear'], got str 'cubic'")


@pytest.mark.slow
def test_training_starts_from_resnet_and_bert(tmp_path):
    """The stem and the first block of a ResNet-18, frozen but for its statistics; and a BERT of fewer words."""
    checkpoint = {name: folder(tmp_path / name, name)[0] for name in ("resnet", "bert")}
    image, text = ResNet(depths=(1,), bottleneck=False), Bert(width=8, depth=2, heads=2, mlp_ratio=1.5, pool="mean")
    init = {"image": Pretrained(str(tmp_path / "resnet")), "text/blocks": Pretrained(str(tmp_path / "bert"))}
    rules = (Freeze(path="image/**"), Freeze(path="text/blocks/attention/**"))
    mine = recipe(image, text, init).replace({"optimizer.rules": rules, "log.embedding_metrics": False}, examples=16)
    loaded, devices = dataclasses.replace(harness.LOADED, recipe=mine), jax.devices()[:1]
    with harness.logged() as messages:
        assert train(mine, tmp_path / "run", loaded, devices=devices) is ExitCode.DONE
    first, second = (text for text in messages if text.startswith("init."))
    assert first.startswith(f"init.image: 15 arrays from {tmp_path / 'resnet'}\n")
    assert "unused: image/blocks/1/layers/0/conv/kernel" in first and "left as initialized" not in first
    assert second == f"init.text/blocks: 16 arrays from {tmp_path / 'bert'}"
    after, start = restore(tmp_path / "run").arrays, checkpoint["resnet"] | checkpoint["bert"]
    started = [name for name in start if name in after and name.startswith(("image/", "text/blocks/"))]
    frozen = {name for name in started if name.startswith(("image/", "text/blocks/attention/"))}
    frozen -= {name for name in started if name.endswith(("/mean", "/variance"))}
    assert {name for name in started if np.array_equal(after[name], start[name])} == frozen


@spec
class WithTriples(harness.tiny.Named):
    """The named images, each with two triples."""

    def fields(self):
        return {**super().fields(), "knowledge": Field((6,), "str")}


def test_triple_encoder_starts_from_bert_blocks(tmp_path):
    checkpoint, _ = folder(tmp_path / "bert", "bert")
    towers = {"image": IMAGE, "text": TEXT, "knowledge": TripleTransformer(width=8, depth=2, heads=2, mlp_ratio=1.5)}
    triples = RECIPE.replace(
        {"data.train": WithTriples(), "data.texts": ("text", "knowledge")}, method=DualEncoder(towers=towers, dim=6)
    )
    load = match("knowledge/blocks", Pretrained(str(tmp_path / "bert"), part="text/blocks"), triples)
    blocks = {path: path.replace("text/", "knowledge/", 1) for path in checkpoint if path.startswith("text/blocks/")}
    assert load.loaded == {name: source for source, name in blocks.items()} and len(blocks) == 16
    assert not (load.missing or load.resized or load.differences)
