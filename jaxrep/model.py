"""Model: a trained method with what it needs to meet the world, its tokenizer and its image transform."""

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image
from rich.console import Console
from rich.progress import track

from jaxrep.batch import INFERENCE, Field, normalize
from jaxrep.data.class_texts import tables_of
from jaxrep.data.images.image import fitted, opened
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.mesh import ROWS, Mesh, local_rows, put_batch, shardings
from jaxrep.methods.base import BATCH_STATS
from jaxrep.params import Arrays, Structure, digests

Transform = Callable[[Image.Image], np.ndarray]
"""From a picture to uint8 [H,W,3] of the size that a model reads."""


class Model:
    """``model.encode(batch, want)`` gives normalized embeddings; nothing of the loss is needed for it."""

    def __init__(
        self,
        structure: Structure,
        arrays: Arrays,
        fields: Mapping[str, Field],
        tokenizer: LoadedTokenizer | None = None,
        *,
        transforms: Mapping[str, Transform] | None = None,
        block_size: int = 256,
        progress: bool = False,
    ):
        self._structure, self._arrays = structure, arrays
        self.fields = dict(fields)
        self.tokenizer = tokenizer
        self.transforms = dict(transforms or {})
        self.block_size = block_size
        self.progress = progress

    def laid(self, mesh: Mesh) -> "Model":
        """The same model with its parameters laid over all devices, over which the rows of a block then lie as well."""
        model = copy.copy(self)
        model._arrays = jax.device_put(self._arrays, shardings(mesh.build(), mesh, self._arrays))
        return model

    def digest(self) -> str:
        """Sixteen hexadecimal digits, equal where parameters (however they lie), inputs and tokenizer are."""
        tokenizer = None if self.tokenizer is None else (self.tokenizer.state, self.tokenizer.length)
        inputs = {name: (repr(field), repr(self.transforms.get(name))) for name, field in self.fields.items()}
        told = json.dumps([digests(self._arrays), inputs, tokenizer], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def encode(self, batch: Mapping[str, Any], want: Sequence[str]) -> dict[str, np.ndarray]:
        """Embeddings by name.

        Args:
            batch: fields that lead with n, any n; images uint8 (or float in [0, 1]) [n,H,W,C], ids int32 [n,L] with
                ``<name>/valid``.
            want: names of outputs of the method's rows.

        Returns:
            {name: float32 [n,D]}, rows of unit length.
        """
        return self._in_blocks(batch, tuple(want), unit=True)

    def outputs(self, batch: Mapping[str, Any], want: Sequence[str]) -> dict[str, np.ndarray]:
        """As ``encode``, but as the method emits them, not normalized."""
        return self._in_blocks(batch, tuple(want), unit=False)

    def per_step(self, want: Sequence[str]) -> dict[str, np.ndarray]:
        """Outputs that belong to no row, as a table of classes or the scale."""
        found = self._structure.merge(self._arrays).per_step(tables_of(self._arrays), INFERENCE)
        return {name: np.asarray(_named(found, name, "the model")) for name in want}

    def _in_blocks(self, batch: Mapping[str, Any], want: tuple[str, ...], *, unit: bool) -> dict[str, np.ndarray]:
        n = len(next(iter(batch.values())))
        blocks = []
        for start in self.starts(n):
            rows = min(self.rows_at_once, n - start)
            own = {name: np.asarray(value[start:][:rows][self.share(rows)]) for name, value in batch.items()}
            blocks.append(self.of_share(own, rows, want, unit=unit))
        return {name: np.concatenate([block[name] for block in blocks]) for name in want}

    def starts(self, n: int) -> Iterable[int]:
        """Where the blocks of n rows start; with a bar where that takes more than one of them."""
        starts = range(0, max(n, 1), self.rows_at_once)
        quiet = not self.progress or len(starts) == 1
        return track(starts, "embedding", console=Console(stderr=True), transient=True, disable=quiet)

    @property
    def rows_at_once(self) -> int:
        """Rows of a block: ``block_size`` a host, where the model lies on the devices of several."""
        devices = self._devices_of_rows()
        here = self._held(devices)
        own = here.stop - here.start
        return -(-self.block_size // own) * devices

    def share(self, rows: int) -> slice:
        """Which rows of a block of so many are this host's to read: those that its devices hold.

        Rows are dealt evenly to the devices over which they lie, each device's followed by what fills it up.
        """
        size, slots = self._slots(rows)
        held = self._held(size)
        return slice(*np.searchsorted(slots, (held.start, held.stop)).tolist())

    def of_share(
        self, own: Mapping[str, np.ndarray], rows: int, want: Sequence[str], *, unit: bool
    ) -> dict[str, np.ndarray]:
        """Outputs of a block of ``rows``, of which ``own`` holds this host's ``share``; normalized where ``unit``.

        All hosts call it, and every one has the outputs of all rows.
        """
        block, slots = self._spread(own, rows)
        mesh = self._mesh()
        whole = None if mesh is None else NamedSharding(mesh, P())
        found = _rows(self._structure, self._arrays, block, tuple(want), unit, whole)
        return {name: np.asarray(x)[slots] for name, x in found.items()}

    def gathered(self, own: np.ndarray, rows: int) -> np.ndarray:
        """A block of ``rows`` whole, of which ``own`` holds this host's ``share``; all hosts call it."""
        block, slots = self._spread({"own": own}, rows)
        return np.asarray(multihost_utils.process_allgather(block["own"], tiled=True))[slots]

    def _spread(self, own: Mapping[str, np.ndarray], rows: int) -> tuple[dict[str, Any], np.ndarray]:
        """A block of ``rows``, filled up, on the devices of all hosts; and the places of the rows in it."""
        size, slots = self._slots(rows)
        held, mesh = self._held(size), self._mesh()
        places = slots[self.share(rows)] - held.start
        block = {name: _dealt(value, places, held.stop - held.start) for name, value in own.items()}
        return block if mesh is None else put_batch(block, NamedSharding(mesh, ROWS), size), slots

    def _slots(self, rows: int) -> tuple[int, np.ndarray]:
        """The size of a block of so many rows, a power of two on each device so that few shapes occur, and where in it
        each of them stands."""
        devices = self._devices_of_rows()
        size = min(self.rows_at_once // devices, 1 << max(-(-rows // devices) - 1, 0).bit_length())
        first = rows * np.arange(devices + 1) // devices
        device = np.repeat(np.arange(devices), np.diff(first))
        return size * devices, device * size + np.arange(rows) - first[device]

    def _devices_of_rows(self) -> int:
        """Over how many devices the rows of a block lie."""
        mesh = self._mesh()
        return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]

    def _held(self, size: int) -> slice:
        """Which places of a block of ``size`` are on this host's devices."""
        mesh = self._mesh()
        return slice(0, size) if mesh is None else local_rows(NamedSharding(mesh, ROWS), size)

    def _mesh(self) -> jax.sharding.Mesh | None:
        """The mesh of several devices on which the parameters lie, or None."""
        sharding = getattr(next(iter(self._arrays.values()), None), "sharding", None)
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) and sharding.num_devices > 1 else None
        return mesh if isinstance(mesh, jax.sharding.Mesh) else None

    def require(self, name: str) -> None:
        """That there is a tower for the field ``name``. Raises UsageError."""
        if name not in self.fields:
            raise UsageError(f"the model has no tower that reads '{name}'; {hint(name, self.fields)}")

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """``{"text": int32 [n,L], "text/valid": bool [n,L]}``."""
        if self.tokenizer is None:
            raise JaxrepError("this model has no tokenizer, so it cannot read texts: give it token ids")
        encodings = self.tokenizer(list(texts))
        return {"text": encodings.ids, "text/valid": encodings.valid}

    def picture_shape(self, name: str) -> tuple[int, ...]:
        """Height, width and channels of a picture; where training sees several views of it, those of one."""
        return self.fields[name].shape[-3:]

    def image(self, picture: Any, name: str = "image") -> np.ndarray:
        """A picture (path, PIL image or uint8 array) as uint8 [H,W,3] of the size that the model was trained on.

        By the model's own transform, or else: the shorter side is resized (antialiased) and the middle cut out; what is
        transparent becomes white.
        """
        height, width, _ = self.picture_shape(name)
        if isinstance(picture, str | Path):
            return _from_file(Path(picture), lambda opened: self.image(opened, name))
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise UsageError(f"a picture as an array is uint8, got {picture.dtype} of shape {picture.shape}")
            if picture.shape == (height, width, 3):
                return picture
            picture = Image.fromarray(picture)
        transform = self.transforms.get(name)
        return transform(picture) if transform else fitted(picture, height, width)

    def pixels(self, arrays: np.ndarray, name: str = "image") -> np.ndarray:
        """Images that are normalized already, float [n,3,H,W] or [n,H,W,3], as float32 [n,H,W,3] in [0,1].

        The encoder normalizes them again, so the model sees what it was given (to the rounding of float32).
        """
        height, width, channels = self.picture_shape(name)
        if arrays.shape[1:] == (channels, height, width):
            arrays = arrays.transpose(0, 2, 3, 1)
        if arrays.shape[1:] != (height, width, channels):
            raise UsageError(
                f"images as an array of floats are normalized and of shape [n,{channels},{height},{width}] or "
                f"[n,{height},{width},{channels}], and these are of shape {list(arrays.shape)}"
            )
        norm = getattr(getattr(self._structure.merge(self._arrays), name), "pixels", None)
        if norm is None:
            raise UsageError(f"the encoder of '{name}' does not say how it normalizes pixels: give it uint8 images")
        return arrays.astype(np.float32) * np.float32(norm.std) + np.float32(norm.mean)

    def encode_text(
        self, texts: Sequence[str] | np.ndarray, name: str = "text", *, valid: np.ndarray | None = None
    ) -> np.ndarray:
        """Embeddings [n,D], rows of unit length, of texts, or of their ids [n,L].

        ``valid`` bool [n,L]: which ids are no padding, as an attention mask says; without it the encoder's own rule.
        """
        self.require(name)
        ids = np.asarray(texts)
        if ids.dtype.kind in "iu" and ids.ndim == 2:
            batch = {name: ids.astype(np.int32)}
            batch |= {} if valid is None else {f"{name}/valid": np.asarray(valid, bool)}
            return self.encode(batch, (name,))[name]
        parts = []
        for start in self.starts(len(texts)):
            tokens = self.tokenize(texts[start : start + self.rows_at_once])  # pyright: ignore[reportArgumentType]
            shown = slice(self._shown(tokens["text/valid"], name))
            batch = {name: tokens["text"][:, shown], f"{name}/valid": tokens["text/valid"][:, shown]}
            parts.append(self.encode(batch, (name,))[name])
        return np.concatenate(parts)

    def _shown(self, valid: np.ndarray, name: str) -> int:
        """How many tokens of each text the encoder is shown: all, or where padding does nothing to the others, up to
        the longest text's (a power of two, so that few shapes occur)."""
        encoder = getattr(self._structure.merge(self._arrays), name, None)
        if not getattr(encoder, "inert_padding", False):
            return valid.shape[1]
        longest = int(valid.sum(axis=1).max(initial=8))
        return min(valid.shape[1], 1 << (longest - 1).bit_length())

    def encode_image(
        self, pictures: Sequence[Any] | np.ndarray, name: str = "image", *, output: str = "", unit: bool = True
    ) -> np.ndarray:
        """Embeddings [n,D], rows of unit length, of pictures: paths, PIL images, uint8 arrays [H,W,3], or one array of
        floats that are normalized already, [n,3,H,W] or [n,H,W,3].

        ``output``: another output of the method's rows than ``name``, as image/pooled; not ``unit``: as it is emitted.
        """
        self.require(name)
        floats = pictures if hasattr(pictures, "dtype") and np.asarray(pictures).dtype.kind == "f" else None
        parts, want = [], output or name
        for start in self.starts(len(pictures)):
            block = pictures[start : start + self.rows_at_once]
            if floats is not None:
                rows = self.pixels(np.asarray(block), name)
            else:
                rows = np.array([self.image(one, name) for one in block], np.uint8)
                rows = rows.reshape(-1, *self.picture_shape(name))
            parts.append(self._in_blocks({name: rows}, (want,), unit=unit)[want])
        return np.concatenate(parts)


def _from_file(path: Path, read: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What ``read`` makes of the picture in a file. Raises UsageError: there is none that can be read."""
    try:
        return opened(path.read_bytes(), read)
    except OSError as error:
        raise UsageError(f"the picture {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


@functools.partial(jax.jit, static_argnames=("structure", "want", "unit", "whole"))
def _rows(
    structure: Structure,
    arrays: Arrays,
    batch: Mapping[str, Any],
    want: tuple[str, ...],
    unit: bool,
    whole: NamedSharding | None,
) -> dict[str, Any]:
    """``whole``: the layout of an array of which every device has all, where there are several devices."""
    outputs = structure.merge(arrays).per_example(batch, INFERENCE)
    found = {name: _named(outputs, name, f"the model, given {', '.join(batch)},") for name in want}
    found = {name: normalize(x) if unit else x.astype("float32") for name, x in found.items()}
    return found if whole is None else jax.lax.with_sharding_constraint(found, whole)


def _named(outputs: Mapping[str, Any], name: str, who: str) -> Any:
    if name not in outputs:
        raise UsageError(f"{who} does not emit '{name}'; {hint(name, [key for key in outputs if key != BATCH_STATS])}")
    return outputs[name]


def _dealt(rows: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """``size`` rows, of which those at ``places`` are these and the others repeat the first (or are zeros, where there
    is none): the result of a row does not depend on the others."""
    if len(rows) == size:
        return rows
    first = rows[:1] if len(rows) else np.zeros((1, *rows.shape[1:]), rows.dtype)
    block = np.repeat(first, size, axis=0)
    block[places] = rows
    return block
