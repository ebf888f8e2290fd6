"""Exported models in transformers give the embeddings of the run, from images and texts."""

import numpy as np
import pytest

from jaxrep.commands.export import main
from jaxrep.data.tokenizers.base import Words
from jaxrep.runs.restore import load_run
from tests.helpers.parity import assert_embeddings
from tests.helpers.trained_model import CLIP, SIGLIP, VIT, clip_tokenizer, finished, learned_tokenizer

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
TEXTS = ["a red fox", "Round  red", "small and large and old and flat and round"]


def exported(run, folder, *more):
    assert main([str(run), "--to", "transformers", "--out", str(folder), *more]) == 0
    return load_run(run)[0], transformers.AutoModel.from_pretrained(folder).eval()


def pixels(folder):
    """Preprocess the images with the exported image processor."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(list(PICTURES), return_tensors="pt")["pixel_values"]


def ids(folder, ours, names):
    """Tokenize the texts with the exported tokenizer, to the length of the run."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    length = ours.fields["text"].shape[0]
    found = tokenizer(TEXTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    assert set(found) == names
    expected = ours.tokenize(TEXTS)
    np.testing.assert_array_equal(np.where(expected["text/valid"], found["input_ids"], 0), expected["text"])
    return dict(found)


def test_clip(tmp_path):
    run = finished(tmp_path / "run", CLIP, clip_tokenizer(tmp_path))
    ours, theirs = exported(run, tmp_path / "out")
    with torch.no_grad():
        image = theirs.visual_projection(theirs.vision_model(pixels(tmp_path / "out")).pooler_output)
        tokens = ids(tmp_path / "out", ours, {"input_ids", "attention_mask"})
        text = theirs.text_projection(theirs.text_model(**tokens).pooler_output)
    assert_embeddings(ours.encode_image(PICTURES), image)
    assert_embeddings(ours.encode_text(TEXTS), text)
    np.testing.assert_allclose(ours.per_step(("scale",))["scale"], theirs.logit_scale.exp().detach(), rtol=1e-6)


@pytest.mark.parametrize("name", ["learned", "words"])
def test_text_ends_at_the_token_of_its_tokenizer_where_words_have_higher_ids(tmp_path, name):
    """In CLIP's layout an end of 2 would mean the highest id of a text, a word of it."""
    tokenizer = learned_tokenizer(tmp_path) if name == "learned" else Words(length=8)
    run = finished(tmp_path / "run", CLIP, tokenizer)
    ours, theirs = exported(run, tmp_path / "out")
    tokens = ids(tmp_path / "out", ours, {"input_ids", "attention_mask"})
    with torch.no_grad():
        text = theirs.text_projection(theirs.text_model(**tokens).pooler_output)
    assert_embeddings(ours.encode_text(TEXTS), text)
    assert tokens["input_ids"].argmax(1).tolist() != (tokens["input_ids"] == 2).int().argmax(1).tolist()


@pytest.mark.parametrize("name", ["learned", "words", "clip"])
def test_open_clip_ends_a_text_as_the_run(tmp_path, name):
    open_clip = pytest.importorskip("open_clip", reason="parity with open_clip needs open_clip_torch and torchvision")
    made = {"learned": learned_tokenizer, "words": lambda _: Words(length=8), "clip": clip_tokenizer}
    run, out = finished(tmp_path / "run", CLIP, made[name](tmp_path)), tmp_path / "out"
    assert main([str(run), "--to", "open_clip", "--out", str(out)]) == 0
    ours = load_run(run)[0]
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    texts = [" ".join(text.split()) for text in TEXTS]  # open_clip does so itself
    tokens, expected = open_clip.get_tokenizer(f"local-dir:{out}")(texts), ours.tokenize(texts)
    np.testing.assert_array_equal(np.where(expected["text/valid"], tokens, 0), expected["text"])
    with torch.no_grad():
        assert_embeddings(ours.encode_text(texts), theirs.eval().encode_text(tokens))


def test_siglip(tmp_path):
    run = finished(tmp_path / "run", SIGLIP)
    ours, theirs = exported(run, tmp_path / "out")
    with torch.no_grad():
        image = theirs.vision_model(pixels(tmp_path / "out")).pooler_output
        text = theirs.text_model(**ids(tmp_path / "out", ours, {"input_ids"})).pooler_output
    assert_embeddings(ours.encode_image(PICTURES), image)
    assert_embeddings(ours.encode_text(TEXTS), text)
    bias = ours.per_step(("bias",))["bias"]
    np.testing.assert_allclose(bias, theirs.logit_bias.detach()[0], rtol=1e-6)


def test_one_vit(tmp_path):
    run = finished(tmp_path / "run", VIT)
    ours, theirs = exported(run, tmp_path / "out", "--part", "image")
    with torch.no_grad():
        image = theirs(pixels(tmp_path / "out")).last_hidden_state[:, 0].numpy()
    head = np.asarray(ours._arrays["image_head/kernel"])
    assert_embeddings(ours.encode_image(PICTURES), torch.tensor(image @ head))
