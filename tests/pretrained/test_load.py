"""``jaxrep.load`` of a checkpoint folder: tokenizers, image transforms and memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import tokenizers
from PIL import Image
from tokenizers import models, pre_tokenizers, processors

import jaxrep
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.pretrained.image_transform import ImageTransform, read_transform
from jaxrep.pretrained.tensors import write
from tests.helpers.checkpoint_folders import folder

TEXTS = ["A red fox.", "two", "A red fox"]


def words(path, **config):
    """Write a tokenizer.json of a few words, padded as tokenizer_config.json states."""
    vocabulary = {word: n for n, word in enumerate(("<pad>", "<eos>", "[UNK]", "a", "A", "red", "fox", "two", "."))}
    pipeline = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    pipeline.pre_tokenizer = pre_tokenizers.Whitespace()
    pipeline.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    pipeline.save(str(path / "tokenizer.json"))
    if config:
        (path / "tokenizer_config.json").write_text(json.dumps(config))


def test_texts_and_their_ids_have_equal_embeddings(tmp_path):
    folder(tmp_path)
    words(tmp_path, pad_token={"content": "<pad>"})
    model = jaxrep.load(tmp_path)
    tokens = model.tokenize(TEXTS)
    assert tokens["text"].tolist() == [[4, 5, 6, 8, 1, 0], [7, 1, 0, 0, 0, 0], [4, 5, 6, 1, 0, 0]]
    embeddings = model.encode_text(TEXTS)
    np.testing.assert_allclose(embeddings, model.encode_text(tokens["text"], valid=tokens["text/valid"]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)


def test_siglip2_lowercases_and_reads_padding(tmp_path):
    folder(tmp_path, "siglip")
    words(tmp_path, pad_token="<eos>")
    model = jaxrep.load(tmp_path)
    tokens = model.tokenize(TEXTS)["text"]
    assert tokens.tolist() == [[3, 5, 6, 8, 1, 1], [7, 1, 1, 1, 1, 1], [3, 5, 6, 1, 1, 1]]
    np.testing.assert_allclose(model.encode_text(TEXTS), model.encode_text(tokens), atol=1e-6)


def test_siglip_removes_punctuation(tmp_path):
    folder(tmp_path, "siglip")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red fox", "two foxes", "the fox is red"] * 9),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=24,
        bos_id=-1,
        eos_id=1,
        pad_id=0,
        unk_id=2,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = jaxrep.load(tmp_path)
    ids = model.tokenize([*TEXTS, "a  RED fox!"])["text"]
    np.testing.assert_array_equal(ids[0], ids[2])
    np.testing.assert_array_equal(ids[0], ids[3])
    assert (ids[1] != 0).all() and ids[1][-1] == 1  # padded with the end of text


def test_clip_vocabulary_files_are_read(tmp_path):
    folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= dict(vocab_size=516, eos_token_id=515)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = folder_tensors(tmp_path)
    tensors["text_model.embeddings.token_embedding.weight"] = np.ones((516, 8), np.float32)
    write(tmp_path, tensors)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\nr e\n")
    ids = jaxrep.load(tmp_path).tokenize(["Ab re"])["text"][0].tolist()
    assert ids == [514, 512, 513, 256 + 68, 515, 0] or (ids[0], ids[1], ids[4]) == (514, 512, 515)


def folder_tensors(path):
    from safetensors.numpy import load_file

    return load_file(path / "model.safetensors")


def test_folder_without_tokenizer_refuses_strings(tmp_path):
    folder(tmp_path)
    model = jaxrep.load(tmp_path)
    assert model.encode_text(np.full((2, 6), 39)).shape == (2, 6)
    with pytest.raises(JaxrepError, match="this model has no tokenizer, so it cannot read texts"):
        model.encode_text(TEXTS)


def test_tokenizer_without_padding_token_is_refused(tmp_path):
    folder(tmp_path)
    words(tmp_path)
    assert jaxrep.load(tmp_path).tokenize(["two"])["text"][0, -1] == 0  # <pad> is a usual name
    held = json.loads((tmp_path / "tokenizer.json").read_text())
    held["model"]["vocab"]["filler"] = held["model"]["vocab"].pop("<pad>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(UsageError, match=r"state the pad_token in tokenizer_config\.json"):
        jaxrep.load(tmp_path)


def test_paths_images_and_pixels_have_equal_embeddings(tmp_path):
    folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            dict(
                size={"shortest_edge": 10},
                crop_size={"height": 8, "width": 8},
                do_center_crop=True,
                resample=2,
                image_mean=[0.4, 0.5, 0.6],
                image_std=[0.2, 0.3, 0.4],
            )
        )
    )
    model = jaxrep.load(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    picture.save(tmp_path / "picture.png")
    pixels = np.asarray(picture.resize((15, 10), Image.Resampling.BILINEAR).crop((3, 1, 11, 9)))
    np.testing.assert_array_equal(model.preprocess(picture), pixels)
    normalized = ((pixels / 255 - (0.4, 0.5, 0.6)) / (0.2, 0.3, 0.4)).astype(np.float32)
    expected = model.encode_image([picture])
    for given in (
        [tmp_path / "picture.png"],
        [str(tmp_path / "picture.png")],
        pixels[None],
        normalized[None],
        normalized.transpose(2, 0, 1)[None],
    ):
        np.testing.assert_allclose(model.encode_image(given), expected, atol=1e-6)
    with pytest.raises(UsageError, match=r"\[n,3,8,8\] or \[n,8,8,3\], got \[1, 9, 8, 3\]"):
        model.encode_image(np.zeros((1, 9, 8, 3), np.float32))


@pytest.mark.parametrize(
    ("stated", "transform"),
    [
        (dict(size=8), dict(height=8, width=8)),
        (
            dict(size={"height": 8, "width": 8}, do_center_crop=False, resample=2),
            dict(height=8, width=8, filter="bilinear"),
        ),
        (dict(size=9, crop_size=8, do_center_crop=True), dict(height=8, width=8, shorter=9)),
        (dict(size=8, crop_size=8, do_center_crop=True), dict(height=8, width=8, shorter=8)),
        (
            dict(size={"shortest_edge": 9}, crop_size={"height": 8, "width": 8}, do_center_crop=True, resample=1),
            dict(height=8, width=8, shorter=9, filter="lanczos"),
        ),
    ],
)
def test_old_and_new_preprocessor_configs(tmp_path, stated, transform):
    stated |= dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    assert read_transform(tmp_path) == ImageTransform(**transform)


PROCESSOR = dict(size={"height": 8, "width": 8}, resample=2, image_mean=[0.4] * 3, image_std=[0.2] * 3)


@pytest.mark.parametrize(
    ("files", "filter", "told"),
    [
        ({"processor_config.json": {"image_processor": PROCESSOR}}, "bilinear", ""),
        (
            {"processor_config.json": {"image_processor": PROCESSOR}, "preprocessor_config.json": {"resample": 1}},
            "bilinear",
            "",
        ),
        ({"preprocessor_config.json": PROCESSOR, "processor_config.json": {"processor_class": "X"}}, "bilinear", ""),
        ({"preprocessor_config.json": {"image_processor": PROCESSOR}}, "bilinear", ""),
        (
            {"processor_config.json": {"video_processor": {"size": 9}, "image_processor": PROCESSOR}},
            "bilinear",
            "not read: video_processor in ",
        ),
        (
            {"processor_config.json": {"video_processor": {}}, "video_preprocessor_config.json": {}},
            "",
            "video_preprocessor_config.json",
        ),
    ],
)
def test_processor_that_transformers_would_take_is_read(tmp_path, capsys, files, filter, told):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = read_transform(tmp_path)
    assert (found.filter if found else "") == filter
    err = capsys.readouterr().err
    assert told in err if told else not err


def test_transform_of_another_size_is_refused(tmp_path):
    folder(tmp_path)
    stated = dict(size=9, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    with pytest.raises(UsageError, match=r"makes images of 9 x 9 pixels, and .*config\.json asks for 8 x 8"):
        jaxrep.load(tmp_path)


def test_peak_memory_of_loading(tmp_path):
    """Loading 130 MB grows resident memory by less than 1.2 times that (half of it are four stacked kernels)."""
    wide = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=4)
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="vit", **wide, image_size=32, patch_size=16)))
    program = f"""
import resource, sys, json, numpy as np, jax
sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})
from pathlib import Path
from jaxrep.pretrained import load, mapping, vit
from jaxrep.pretrained.tensors import write, read_json
folder = Path({str(tmp_path)!r})
"""
    make = (
        program
        + """
from flax import nnx
from jaxrep.batch import Field
from jaxrep.encoders.image.vit import ViT
from jaxrep.params import split
spec = ViT(width=768, depth=4, heads=12)
_, arrays = split(nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=Field((32, 32, 3), "uint8"))))
arrays = {path: np.ones(leaf.shape, np.float32) for path, leaf in arrays.items()}
table = vit.table(16, 32)
write(folder, mapping.save(mapping.active(table, {k: v.shape for k, v in arrays.items()}, ""), arrays))
"""
    )
    measure = (
        program
        + """
load.load_checkpoint  # everything is imported
jax.device_put(np.ones(3)).block_until_ready()
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checkpoint = load.read(folder)
before = peak()
arrays = checkpoint.arrays(load.placement(None))
jax.block_until_ready(arrays)
size = sum(value.nbytes for value in arrays.values())
print(size, peak() - before)
"""
    )
    run = lambda text: subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)  # noqa: E731
    run(make)
    size, grown = map(int, run(measure).stdout.split())
    assert size > 100e6
    assert grown < 1.2 * size
