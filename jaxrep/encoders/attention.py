"""Attention by XLA, which writes all logits, or by a kernel of the device, which does not; a fixed rule chooses.

The choice depends on the platform and on shapes alone, so a resumed run takes the same path. A kernel reads causality
and the number of real tokens in place of a mask. It runs on its own platform; elsewhere XLA's form computes the same.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from jaxrep.batch import Array
from jaxrep.errors import UsageError
from jaxrep.mesh import current_mesh, platform

if TYPE_CHECKING:
    from jaxrep.encoders.transformer import Transformer

AttentionForm = Literal["auto", "xla", "cudnn", "pallas", "splash"]

MIN_TOKENS = 1024
"""Fewest tokens for a kernel by ``auto``. XLA's float32 logits of one row then take 4 MiB a head, and several such
arrays live at once. No kernel was timed on a device yet (docs/performance.md, "Attention"), so the limit is high."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Describe what a kernel can compute."""

    platform: str
    types: tuple[str, ...]
    widest_head: int


KERNELS: Mapping[str, Kernel] = {
    "cudnn": Kernel("gpu", ("bfloat16", "float16"), 128),
    "pallas": Kernel("tpu", ("bfloat16", "float32"), 256),
    "splash": Kernel("tpu", ("bfloat16", "float32"), 256),
}
AUTO: Mapping[str, tuple[str, ...]] = {"gpu": ("cudnn",), "tpu": ("pallas", "splash")}
"""Kernels that ``auto`` takes by platform from ``MIN_TOKENS`` tokens on: the first that can compute a call."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelCall:
    """Hold what a kernel reads beside queries, keys and values."""

    kernel: str = dataclasses.field(metadata={"static": True})
    causal: bool = dataclasses.field(metadata={"static": True})
    """Whether a token sees itself and earlier tokens only."""
    lengths: Array | None  # int32 [B]: the number of real tokens, which come first; None: all are real


def limits(
    name: str, spec: "Transformer", dtype: str, *, bias: bool = False, real_anywhere: bool = False
) -> Iterator[str]:
    """Yield a sentence for each reason why a kernel cannot compute the attention of an encoder.

    Args:
        name: of the kernel.
        spec: of the encoder; its heads divide its width.
        dtype: type of the tokens; ``auto`` if the platform decides.
        bias: whether biases are added to the logits.
        real_anywhere: whether tokens that are not real may come before others that are.
    """
    kernel, head = KERNELS[name], spec.width // spec.heads
    if head % 8 or head > kernel.widest_head:
        yield _cannot(name, f"takes heads of a multiple of 8 channels, at most {kernel.widest_head}, got {head}")
    if dtype not in (*kernel.types, "auto"):
        yield _cannot(name, f"computes in {' or '.join(kernel.types)}, got {dtype}")
    if spec.local is not None:
        yield _cannot(name, "sees all tokens, and local limits some blocks to near ones")
    if bias:
        yield _cannot(name, "adds no bias to the logits, and the encoder has biases of relative positions")
    if real_anywhere:
        yield _cannot(name, "reads how many tokens are real, and the encoder does not declare that those come first")


def _cannot(name: str, why: str) -> str:
    return f'attention = "{name}" {why}: take "auto" or "xla"'


def choose_kernel(spec: "Transformer", h: Array, valid: Array | None, *, causal: bool, bias: bool) -> KernelCall | None:
    """Return the call of the kernel for tokens h [B,N,D] of which ``valid`` [B,N] are real, or None for XLA's form.

    A program for any number of rows, which is for any platform too, takes XLA's form.

    Raises:
        ValueError: the spec names a kernel that cannot compute this.
        UsageError: the kernel that it names does not fit the device.
    """
    form, real_anywhere = spec.attention, valid is not None and not spec.padded_at_end
    if form not in ("auto", "xla"):
        for sentence in limits(form, spec, spec.dtype, bias=bias, real_anywhere=real_anywhere):
            raise ValueError(sentence)
    if form == "xla" or not isinstance(h.shape[0], int):
        return None
    here = platform()
    for name in AUTO.get(here, ()) if form == "auto" else (form,):
        able = KERNELS[name].platform == here
        if form == "auto" and able:
            known = limits(name, spec, str(h.dtype), bias=bias, real_anywhere=real_anywhere)
            able = h.shape[1] >= MIN_TOKENS and h.dtype != jnp.float32 and not any(known) and _device_has(name)
        if able and name == "pallas" and not _fits(spec, h):
            if form == "auto":
                continue
            raise UsageError(
                f'attention = "pallas" keeps all keys of a row in vector memory, and {h.shape[1]} tokens do not fit '
                'that of this device: take "splash"'
            )
        if able:
            return KernelCall(name, causal, None if valid is None else valid.sum(axis=1, dtype=jnp.int32))
    return None


def _fits(spec: "Transformer", h: Array) -> bool:
    from jaxrep.encoders.attention_pallas import vmem_fits

    return vmem_fits(h.shape[1], spec.heads, spec.width // spec.heads, h.dtype.itemsize)


def _device_has(name: str) -> bool:
    """Return whether the device is new enough: cuDNN's kernel needs compute capability 8.0 (A100)."""
    mesh = current_mesh()
    if name != "cudnn" or (mesh is not None and mesh.abstract_device is not None and jax.default_backend() != "gpu"):
        return True
    capability = re.fullmatch(r"(\d+)\.\d+", str(getattr(jax.devices()[0], "compute_capability", "")))
    return capability is not None and int(capability[1]) >= 8  # AMD's are words


def attend(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    call: KernelCall | None = None,
) -> Array:
    """Return softmax(query key^T / sqrt(d) + bias) value for query [B,N,H,d] and key, value [B,M,K,d]; K divides H.

    ``mask`` (bool, True where attention is allowed) and ``bias`` broadcast to [B,H,N,M]; XLA's form reads them, and a
    kernel reads ``call``.
    """
    if call is None:
        return jax.nn.dot_product_attention(query, key, value, bias=bias, mask=mask)
    return _function(call.kernel)(query, key, value, causal=call.causal, lengths=call.lengths)


def _function(name: str) -> Callable[..., Array]:
    """Return the function of a kernel. Pallas's modules are imported where they are used: that takes a while."""
    if name == "cudnn":
        return cudnn_attention
    if name == "splash":
        from jaxrep.encoders.attention_splash import splash_attention

        return splash_attention
    from jaxrep.encoders.attention_pallas import pallas_attention

    return pallas_attention


def cudnn_attention(query: Array, key: Array, value: Array, *, causal: bool, lengths: Array | None) -> Array:
    """Return what ``attend`` returns, by cuDNN's kernel (Dao et al. 2022, FlashAttention, arXiv:2205.14135).

    The kernel takes an even number of tokens in training, so that an odd one is padded here. A row without real tokens
    sees its first one; in XLA's form it sees all.
    """
    rows, tokens = query.shape[:2]
    if tokens % 2:
        lengths = jnp.full(rows, tokens, jnp.int32) if lengths is None else lengths
        query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=causal,
        query_seq_lengths=None if lengths is None else jnp.full(rows, tokens, jnp.int32),
        key_value_seq_lengths=None if lengths is None else jnp.maximum(lengths, 1),
        implementation="cudnn",
    )
    return out[:, :tokens]
