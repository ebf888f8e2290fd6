"""open_clip's checkpoints against open_clip: embeddings and scale, of random weights."""

import dataclasses
import json

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.load import load_checkpoint
from jaxrep.pretrained.tensors import write
from jaxrep.pretrained.tokenizers import find_open_clip_tokenizer, load_tokenizer
from tests.helpers.parity import RNG, assert_embeddings, assert_layers, perturbed, pictures

torch = pytest.importorskip("torch", reason="parity with open_clip needs the extra 'parity' (torch)")
open_clip = pytest.importorskip("open_clip", reason="parity with open_clip needs open_clip_torch and torchvision")

VISION = dict(layers=3, width=32, head_width=8, patch_size=4, image_size=12, mlp_ratio=3.0)
TEXT = dict(context_length=9, vocab_size=60, width=24, heads=3, layers=2)


def check(model, folder, config, n=3):
    perturbed(model, torch)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    write(folder, {name: value.numpy() for name, value in model.state_dict().items()}, "open_clip_model")
    ours = load_checkpoint(folder)
    x, seen = pictures(ours, n, torch)
    ids = RNG.integers(0, ours.fields["text"].classes, (n, ours.fields["text"].shape[0]))
    hidden = []
    hooks = [model.visual.ln_pre.register_forward_hook(lambda module, given, out: hidden.append(out))]
    for block in model.visual.transformer.resblocks:
        hooks.append(block.register_forward_hook(lambda module, given, out: hidden.append(out)))
    with torch.no_grad():
        images, texts = model.encode_image(x), model.encode_text(torch.tensor(ids))
    [hook.remove() for hook in hooks]
    pooled = model.visual.ln_post(hidden[-1][:, 0]).detach()
    assert_layers(ours, "image", seen, hidden, pooled)
    assert_embeddings(ours.encode_image(x.numpy()), images)
    assert_embeddings(ours.encode_text(ids), texts)
    np.testing.assert_allclose(ours.per_step(("scale",))["scale"], model.logit_scale.exp().detach(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize(
    ("top", "vision", "text"),
    [
        (dict(quick_gelu=True), {}, {}),
        ({}, dict(ls_init_value=0.5, norm_kwargs=dict(eps=1e-6)), {}),
        ({}, dict(no_ln_pre=True), dict(no_causal_mask=True, pool_type="last")),
    ],
    ids=["quick-gelu", "layer-scale", "bidirectional"],
)
def test_open_clip(tmp_path, kind, top, vision, text):
    config = dict(embed_dim=20, vision_cfg={**VISION, **vision}, text_cfg={**TEXT, **text}, **top)
    check(getattr(open_clip, kind)(**config), tmp_path, config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16"])
def test_full_size_open_clip(tmp_path, name):
    config = open_clip.get_model_config(name)
    model = open_clip.CLIP(**{name: config[name] for name in ("embed_dim", "vision_cfg", "text_cfg")})
    check(model, tmp_path, config, n=2)


def test_every_open_clip_field_is_read_or_refused():
    """A field that is neither read nor refused would be a silent difference."""
    from jaxrep.pretrained.open_clip import ONE_WAY, TEXT, TEXT_ONE_WAY, VISION, VISION_ONE_WAY

    elsewhere = {"patch_dropout", "tokenizer_mode", "tokenizer_kwargs"}  # in training, and by the tokenizer
    without_effect = {"attn_pooler_queries", "attn_pooler_heads", "pad_id"}  # of what is refused
    for theirs, ours in (
        (open_clip.CLIPVisionCfg, VISION | VISION_ONE_WAY),
        (open_clip.CLIPTextCfg, TEXT | TEXT_ONE_WAY),
    ):
        names = {field.name for field in dataclasses.fields(theirs) if not field.name.startswith(("timm_", "hf_"))}
        assert names - elsewhere - without_effect <= set(ours) | set(ONE_WAY)


TEXTS = [
    "",
    "a photo of a cat",
    "Salt &amp; pepper, &lt;b&gt; &amp;amp; &quot;x&quot;",
    "don\u2019t \u201cquote\u201d me \u2026",
    "caf\u00c3\u00a9 and na\u00c3\u00afve \u00e2\u20ac\u2122 mojibake",
    "\ufb01sh and \ufb02our, \uff21\uff22\uff23",
    "snake_case, PUNCTUATION!!! (really?)",
    "tabs\tand\nlines\u2003and  spaces ",
    "<start_of_text> inside <end_of_text> and <|endoftext|>",
    "\u7b11\u3044\u6ce3\u304d \U0001f469\U0001f3fd\u200d\U0001f680 1234 x\u00b2 \u0130stanbul e\u0301",
    "word " * 100,
]


@pytest.fixture(scope="module")
def hub_tokenizer(tmp_path_factory):
    """Return a folder with the files of CLIP's tokenizer as repositories of hubs have them."""
    transformers = pytest.importorskip("transformers", reason="its files are written by transformers")
    theirs = open_clip.tokenizer.SimpleTokenizer()
    tokens = [*list(theirs.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={token: n for n, token in enumerate(tokens)}, merges=[*theirs.bpe_ranks], pad_token="<|endoftext|>"
    )
    folder = tmp_path_factory.mktemp("hub")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "text_cfg",
    [
        {},
        {"tokenizer_kwargs": {"clean": "canonicalize"}},
        {"tokenizer_kwargs": {"clean": "whitespace"}},
        {"hf_tokenizer_name": "local"},
        {"hf_tokenizer_name": "local", "tokenizer_kwargs": {"clean": "canonicalize"}},
    ],
)
def test_texts_have_the_ids_of_open_clip(hub_tokenizer, text_cfg):
    text_cfg = {"context_length": 40, "vocab_size": 49_408, **text_cfg}
    file = hub_tokenizer / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": {"text_cfg": text_cfg}}))
    theirs = open_clip.get_tokenizer(f"local-dir:{hub_tokenizer}")(TEXTS).numpy()
    field = Field((40,), "int32", 49_408)
    tokenizer = find_open_clip_tokenizer(hub_tokenizer, field, Config(text_cfg, file))
    assert tokenizer is not None
    ours = load_tokenizer(tokenizer)(TEXTS).ids
    for text, mine, want in zip(TEXTS, ours, theirs, strict=True):
        assert mine.tolist() == want.tolist(), text
