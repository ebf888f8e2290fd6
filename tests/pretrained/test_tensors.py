"""Incomplete, inconsistent and unsafe checkpoints are refused in one sentence that names tensor and file."""

import json
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxrep
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.pretrained import load
from jaxrep.pretrained.tensors import write
from tests.helpers.checkpoint_folders import CONFIGS, folder, parameters

QUERY = "vision_model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def clip(tmp_path):
    folder(tmp_path)
    return tmp_path


def changed(path, change):
    """Rewrite the tensors of a folder."""
    file = path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def error_of(path):
    """Return the error message of a folder."""
    with pytest.raises(UsageError) as error:
        load.read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def shard(path, parts=3):
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = {name: f"model-{n % parts}.safetensors" for n, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in names if names[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return names


def test_sharded_checkpoint(tmp_path):
    written, _ = folder(tmp_path)
    shard(tmp_path)
    for path, value in parameters(tmp_path).items():
        np.testing.assert_array_equal(value, written[path])


@pytest.mark.parametrize(
    ("name", "prefix", "sharded"),
    [
        ("clip", "module.", False),
        ("clip", "_orig_mod.", True),
        ("siglip", "model.", False),
        ("open_clip", "_orig_mod.module.", False),
        ("bert", "model.model.", True),
    ],
)
def test_prefixes_of_wrappers_are_left_out(tmp_path, name, prefix, sharded):
    written, tensors = folder(tmp_path, name)
    wrapped = {prefix + name: value for name, value in tensors.items()}
    write(tmp_path, wrapped, "open_clip_model" if name == "open_clip" else "model")
    if sharded:
        shard(tmp_path)
    for path, value in parameters(tmp_path).items():
        np.testing.assert_array_equal(value, written[path])


@pytest.mark.parametrize(("prefix", "others"), [("student.", {}), ("model.", {"loss.weight": np.ones(2, np.float32)})])
def test_other_prefix_of_all_names_is_told(clip, prefix, others):
    tensors = load_file(clip / "model.safetensors")
    save_file({**{prefix + name: value for name, value in tensors.items()}, **others}, clip / "model.safetensors")
    assert f"; '{prefix}' stands before these names there: remove it from the file" in error_of(clip)


def test_missing_and_unexpected_tensors_are_named(clip):
    changed(clip, lambda tensors: tensors.pop(QUERY))
    assert f"model.safetensors lacks tensor '{QUERY}'" in error_of(clip)
    folder(clip)
    changed(clip, lambda tensors: tensors.update({"vision_model.extra": np.ones(3, np.float32)}))
    assert "tensor 'vision_model.extra' in" in error_of(clip) and "has no place" in error_of(clip)


def test_ignored_tensors_are_reported_as_unused(clip):
    name = "text_model.embeddings.position_ids"
    changed(clip, lambda tensors: tensors.update({name: np.arange(6)[None]}))
    assert load.read(clip).unused == [name]


def test_wrong_shape_and_wrong_dtype_are_named(clip):
    changed(clip, lambda tensors: tensors.update({QUERY: np.ones((8, 9), np.float32)}))
    sentence = error_of(clip)
    assert f"tensor '{QUERY}' in {clip}/model.safetensors has shape (8, 9)" in sentence
    assert "asks for (8, 8) (parameter 'image/blocks/attention/query/kernel')" in sentence
    changed(clip, lambda tensors: tensors.update({QUERY: np.ones((8, 8), np.int64)}))
    assert f"tensor '{QUERY}' in {clip}/model.safetensors is of type I64" in error_of(clip)


def damaged(content):
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])

    def with_header(new):
        text = new if isinstance(new, bytes) else json.dumps(new).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    first = next(name for name in header if name != "__metadata__")
    yield "cut", content[:-10]
    yield "cut in the header", content[:100]
    yield "empty", b""
    yield "an endless header", struct.pack("<Q", 2**62) + content[8:]
    yield "no JSON", with_header(b"{" * length)
    yield "beyond the end", with_header(header | {first: header[first] | {"data_offsets": [0, 2**40]}})
    yield "overlapping", with_header(header | {"twin": header[first]})
    yield "overflow", with_header(header | {first: header[first] | {"shape": [2**62, 2**62]}})
    yield "negative", with_header(header | {first: header[first] | {"data_offsets": [-4, 4]}})


def test_damaged_or_hostile_header_is_refused(clip):
    file = clip / "model.safetensors"
    for _, content in damaged(file.read_bytes()):
        file.write_bytes(content)
        assert error_of(clip).startswith(f"{file} is not a complete safetensors file: ")


@pytest.mark.parametrize("content", [pickle.dumps({}), b"PK\x03\x04" + bytes(64)], ids=["pickle", "torch's archive"])
def test_pickle_is_refused(clip, content):
    (clip / "model.safetensors").write_bytes(content)
    assert "a pickle runs code of its author while it is read, so it is refused" in error_of(clip)
    (clip / "model.safetensors").rename(clip / "pytorch_model.bin")
    assert "holds pytorch_model.bin and no safetensors file: a pickle" in error_of(clip)


def test_index_that_does_not_fit_its_shards_is_refused(clip):
    names = shard(clip)
    index = clip / "model.safetensors.index.json"

    def with_map(changes):
        index.write_text(json.dumps({"weight_map": {**names, **changes}}))
        return error_of(clip)

    assert "names the shard '../elsewhere.safetensors', and there is no such file beside it" in with_map(
        {QUERY: "../elsewhere.safetensors"}
    )
    assert "and the header of 'model-0.safetensors' disagree about tensor 'stranger'" in with_map(
        {"stranger": "model-0.safetensors"}
    )
    index.write_text(json.dumps({"weight_map": {k: v for k, v in names.items() if k != QUERY}}))
    assert f"disagree about tensor '{QUERY}'" in error_of(clip)
    index.write_text("[]")
    assert f"{index} should hold a JSON object, and holds a list" in error_of(clip)
    index.write_text('{"weight_map": {"a": 3}}')
    assert "'weight_map' should state the file of each tensor" in error_of(clip)


def test_several_files_without_index_are_refused(clip):
    (clip / "model.safetensors").rename(clip / "a.safetensors")
    assert load.read(clip).shapes
    (clip / "b.safetensors").write_bytes((clip / "a.safetensors").read_bytes())
    assert "holds a.safetensors, b.safetensors and no model.safetensors.index.json" in error_of(clip)


def test_file_that_vanishes_while_reading_is_named(clip):
    checkpoint = load.read(clip)
    (clip / "model.safetensors").unlink()
    with pytest.raises(JaxrepError, match=r"tensor '.+' of .+model.safetensors cannot be read"):
        checkpoint.arrays()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(model_type="llama"), "the model_type 'llama' is not known; known are clip,"),
        (dict(model_type="siglip2"), "variable resolution"),
        (dict(projection_dim="six"), "'projection_dim' should be a positive whole number below 2**31, and is 'six'"),
        (dict(vision_config=[1]), "'vision_config' should be an object, and is [1]"),
        (
            dict(vision_config=dict(CONFIGS["clip"]["vision_config"], hidden_act="mish")),
            "'hidden_act' should be one of",
        ),
        (
            dict(vision_config=dict(CONFIGS["clip"]["vision_config"], layer_norm_eps=-1)),
            "should be a number, 0 or more",
        ),
        (dict(vision_config=dict(CONFIGS["clip"]["vision_config"], num_attention_heads=3)), "do not divide width = 8"),
        (dict(vision_config=dict(CONFIGS["clip"]["vision_config"], patch_size=3)), "does not split into patches"),
    ],
)
def test_invalid_config_is_refused(clip, change, sentence):
    (clip / "config.json").write_text(json.dumps(CONFIGS["clip"] | change))
    assert sentence in error_of(clip) and f"{clip}/config.json" in error_of(clip)


def test_unsupported_option_is_refused(tmp_path):
    folder(tmp_path, "open_clip")
    file = tmp_path / "open_clip_config.json"
    for part, name, value in (("vision_cfg", "qk_norm", True), ("text_cfg", "hf_model_name", "roberta-base")):
        config = json.loads(json.dumps(CONFIGS["open_clip"]))
        config["model_cfg"][part][name] = value
        file.write_text(json.dumps(config))
        assert f"{file}: '{name}' is {value!r}, and only models with" in error_of(tmp_path)


def test_folder_without_checkpoint_is_refused(tmp_path):
    assert "holds no recipe.json, modules.json, config.json, open_clip_config.json" in error_of(tmp_path)
    with pytest.raises(UsageError):
        jaxrep.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["vit"]))
    assert "holds no safetensors file: model.safetensors is expected" in error_of(tmp_path)
