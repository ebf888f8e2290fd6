"""What a folder holds decides how it is read: several descriptions, none, other places, and absurd sizes."""

import copy
import functools
import json
import operator

import pytest

import jaxrep
from jaxrep.errors import UsageError
from jaxrep.pretrained import load
from tests.helpers.checkpoint_folders import CONFIGS, folder


def described(tmp_path, *names):
    """Write folders of these layouts, and put their files into one."""
    for name in names:
        folder(tmp_path, name)
    return tmp_path


def test_of_several_descriptions_the_one_that_can_be_read_is_valid(tmp_path):
    mixed = described(tmp_path, "clip", "open_clip")
    assert load.read(mixed).source.config.file.name == "config.json"
    for content in ({"architecture": "vit_base_patch32_clip_224"}, {"model_type": "llama"}, CONFIGS["siglip"]):
        (mixed / "config.json").write_text(json.dumps(content))
        assert load.read(mixed).source.config.file.name == "open_clip_config.json"
    (mixed / "model.safetensors").unlink()
    (mixed / "config.json").write_text(json.dumps(CONFIGS["clip"]))
    assert load.read(mixed).source.tensors.where.name == "open_clip_model.safetensors"


def test_each_description_that_cannot_be_read_is_named_with_its_reason(tmp_path):
    mixed = described(tmp_path, "clip", "open_clip")
    (mixed / "config.json").write_text(json.dumps({"architecture": "vit_base_patch32_clip_224"}))
    (mixed / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 0}}))
    with pytest.raises(UsageError) as error:
        jaxrep.load(mixed)
    for part in ("the architecture 'vit_base_patch32_clip_224' is not known", "open_clip_config.json: 'embed_dim'"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nowhere", "there is no folder nowhere"),
        ("cache/models--a-b", "there is no folder cache/models--a-b; did you mean cache/models--a--b?"),
        ("runs/../nowhere", "there is no folder runs/../nowhere"),
        (
            "openai/clip-vit-base-patch32",
            "there is no folder openai/clip-vit-base-patch32: if it is the name of a model on a hub, write "
            "hf://openai/clip-vit-base-patch32",
        ),
        (
            "models--openai--clip",
            "there is no folder models--openai--clip: if it is the name of a model on a hub, write hf://openai/clip",
        ),
        (
            "cache/models--a--b",
            "cache/models--a--b is the cache of a hub: take its snapshot, cache/models--a--b/snapsho",
        ),
        ("empty", "empty is neither a run nor a public checkpoint: it holds no recipe.json, modules.json, config.json"),
        ("file.safetensors", "file.safetensors is a file, expected the folder of a run or of a public checkpoint"),
    ],
)
def test_place_without_a_model_is_told_by_what_is_there(tmp_path, monkeypatch, place, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache/models--a--b/snapshots/0123").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(UsageError) as error:
        jaxrep.load(place)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("number", [10**9, 10**30])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("clip", "vision_config.num_hidden_layers"),
        ("clip", "vision_config.hidden_size"),
        ("clip", "vision_config.image_size"),
        ("clip", "text_config.max_position_embeddings"),
        ("clip", "text_config.vocab_size"),
        ("clip", "text_config.intermediate_size"),
        ("clip", "projection_dim"),
        ("bert", "num_hidden_layers"),
        ("roberta", "pad_token_id"),
        ("registers", "num_register_tokens"),
        ("registers", "mlp_ratio"),
        ("open_clip", "model_cfg.vision_cfg.layers"),
        ("open_clip", "model_cfg.text_cfg.heads"),
        ("resnet", "pretrained_cfg.input_size.1"),
    ],
)
def test_sizes_beyond_the_tensors_are_refused_within_seconds(tmp_path, name, path, number):
    folder(tmp_path, name)
    config = copy.deepcopy(CONFIGS[name])
    *outer, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    functools.reduce(operator.getitem, outer, config)[last] = number
    (tmp_path / ("open_clip_config.json" if name == "open_clip" else "config.json")).write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"config\.json|safetensors"):
        load.read(tmp_path)


def test_size_of_a_transform_is_bounded(tmp_path):
    folder(tmp_path, "dinov2")
    stated = dict(size={"height": 10**9, "width": 10**9}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    with pytest.raises(UsageError, match="a size is a number of pixels up to 16384"):
        load.read(tmp_path)
