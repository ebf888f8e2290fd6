"""Helpers of parity tests: perturbed torch models saved as folders, and jaxrep's outputs of every layer."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrep.encoders import transformer
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.blocks import run_blocks
from jaxrep.encoders.image import convnet
from jaxrep.pretrained import load
from jaxrep.pretrained.architecture import Source
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.load import load_checkpoint
from jaxrep.pretrained.tensors import Entry, Tensors

RNG = np.random.default_rng(0)

LAYER = 2e-5
"""Tolerance relative to the largest magnitude: float32 sums in another order, over some layers."""
EMBEDDING = 1e-4


def perturbed(model, torch):
    """Perturb all parameters and running statistics of a torch model, so that no zero or one hides a fault.

    Wide matrices move less, so that outputs keep their size in full-size models.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            wide = value.shape[1:].numel() if value.ndim > 1 else 1
            value += 0.1 * min(1, (32 / max(1, wide)) ** 0.5) * torch.randn(value.shape, generator=generator)
        for name, value in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value += 0.1 * torch.rand(value.shape, generator=generator)
    return model.eval()


def saved(model, folder, torch):
    perturbed(model, torch).save_pretrained(folder)
    return load_checkpoint(folder)


def layers(model, name, x):
    """Return tokens [n,N,D] of an encoder after its embedding and after each block, and its pooled features."""
    seen = {}

    def recording(stack, h, *, readout, intermediates, **kwargs):
        last, read, _ = run_blocks(stack, h, readout=lambda h: h, intermediates=tuple(range(depth)), **kwargs)
        seen.update({-1: h, **read})
        return last, {}, {}

    def outputs(arrays, x):
        encoded = getattr(structure.merge(arrays), name)(EncoderInputs(x))
        return dict(seen), encoded.pooled

    structure, arrays = model._structure, model._arrays
    depth = arrays[f"{name}/blocks/norm1/scale"].shape[0]
    original, transformer.run_blocks = transformer.run_blocks, recording
    try:
        found, pooled = jax.jit(outputs)(arrays, x)
    finally:
        transformer.run_blocks = original
    return [np.asarray(found[key]) for key in range(-1, depth)], np.asarray(pooled)


def maps(model, name, x):
    """Return feature maps [n,H,W,D] of a convolutional encoder after its stem and each block, and its features."""
    seen = []

    def recording(block, h, training, keys):
        seen.extend([] if seen else [h])
        seen.append(original(block, h, training, keys))
        return seen[-1]

    def outputs(arrays, x):
        seen.clear()
        return getattr(model._structure.merge(arrays), name)(EncoderInputs(x)).pooled, list(seen)

    original, convnet.run_block = convnet.run_block, recording
    try:
        pooled, found = jax.jit(outputs)(model._arrays, x)
    finally:
        convnet.run_block = original
    return [np.asarray(value) for value in found], np.asarray(pooled)


def assert_near(ours, theirs):
    """Compare a layer's output with the reference."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=LAYER * np.abs(theirs).max())


def assert_layers(model, name, x, hidden, pooled, real=None):
    """Compare every layer's output at the tokens ``real`` [n,N] (default: all), and the features."""
    mine, features = layers(model, name, x)
    assert len(mine) == len(hidden)
    real = np.ones(mine[0].shape[:2], bool) if real is None else real
    pairs = [(ours[real], theirs.numpy()[real]) for ours, theirs in zip(mine, hidden, strict=True)]
    for ours, theirs in [*pairs, (features, pooled.numpy())]:
        assert_near(ours, theirs)


def pictures(model, n, torch):
    """Return random normalized images, [n,3,H,W] for torch, and in [0,1] for jaxrep."""
    side = model.fields["image"].shape[0]
    x = RNG.normal(size=(n, 3, side, side)).astype(np.float32)
    return torch.tensor(x), model.denormalize(x)


def unit(x):
    x = x.numpy()
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def assert_embeddings(ours, theirs):
    np.testing.assert_allclose(ours, unit(theirs), rtol=0, atol=EMBEDDING)


def unread_tensors(model: Any, name: str, folder: Path) -> set[str]:
    """Return the tensors of timm's model ``name``, on the meta device, that its reader does not read."""
    entries = {key: Entry(tuple(value.shape), "F32", folder) for key, value in model.state_dict().items()}
    side = model.patch_embed.img_size[0]
    config = Config({"architecture": name, "input_size": [3, side, side]}, folder)
    return set(load.read_source(Source(folder, config, Tensors(entries, folder), None), load.TIMM[name]).unused)
