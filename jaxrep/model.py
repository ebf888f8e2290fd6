"""Model: a trained method with what it needs to meet the world, its tokenizer and its image transform."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxrep.batch import INFERENCE, Field
from jaxrep.data.picture import fitted
from jaxrep.data.tokenize import LoadedTokenizer
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.methods.method import STATISTICS
from jaxrep.objective import normalise
from jaxrep.train.partition import Arrays, Structure


class Model:
    """``model.encode(batch, want)`` gives normalised embeddings; nothing of the loss is needed for it."""

    def __init__(
        self,
        structure: Structure,
        arrays: Arrays,
        fields: Mapping[str, Field],
        tokenizer: LoadedTokenizer | None = None,
        *,
        block_size: int = 256,
    ):
        self._structure, self._arrays = structure, arrays
        self.fields = dict(fields)
        self.tokenizer = tokenizer
        self.block_size = block_size

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
        """As ``encode``, but as the method emits them, not normalised."""
        return self._in_blocks(batch, tuple(want), unit=False)

    def shared(self, want: Sequence[str]) -> dict[str, np.ndarray]:
        """Outputs that belong to no row, as a table of classes or the scale."""
        found = self._structure.merge(self._arrays).shared({}, INFERENCE)
        return {name: np.asarray(_named(found, name, "the model")) for name in want}

    def _in_blocks(self, batch: Mapping[str, Any], want: tuple[str, ...], *, unit: bool) -> dict[str, np.ndarray]:
        n = len(next(iter(batch.values())))
        blocks = [self._block(batch, start, want, unit) for start in range(0, max(n, 1), self.block_size)]
        return {name: np.concatenate([block[name] for block in blocks]) for name in want}

    def _block(self, batch: Mapping[str, Any], start: int, want: tuple[str, ...], unit: bool) -> dict[str, np.ndarray]:
        """One block of rows, the last one filled up by repetition so that every block has one shape."""
        cut = {name: np.asarray(value[start : start + self.block_size]) for name, value in batch.items()}
        filled = {name: _fill(value, self.block_size) for name, value in cut.items()}
        rows = len(next(iter(cut.values())))
        return {
            name: np.asarray(x)[:rows] for name, x in _rows(self._structure, self._arrays, filled, want, unit).items()
        }

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """``{"text": int32 [n,L], "text/valid": bool [n,L]}``."""
        if self.tokenizer is None:
            raise JaxrepError("this model has no tokenizer, so it cannot read texts: give it token ids")
        encodings = self.tokenizer(list(texts))
        return {"text": encodings.ids, "text/valid": encodings.valid}

    def image(self, picture: Any, name: str = "image") -> np.ndarray:
        """A picture (path, PIL image or uint8 array) as uint8 [H,W,3] of the size that the model was trained on.

        The shorter side is resized (bicubic, antialiased) and the middle cut out; what is transparent becomes white.
        """
        height, width, _ = self.fields[name].shape
        if isinstance(picture, str | Path):
            picture = Image.open(picture)
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise UsageError(f"a picture as an array is uint8, got {picture.dtype} of shape {picture.shape}")
            if picture.shape == (height, width, 3):
                return picture
            picture = Image.fromarray(picture)
        return fitted(picture, height, width)

    def encode_text(self, texts: Sequence[str], name: str = "text") -> np.ndarray:
        """Embeddings [n,D] of texts."""
        tokens = self.tokenize(texts)
        return self.encode({name: tokens["text"], f"{name}/valid": tokens["text/valid"]}, (name,))[name]

    def encode_image(self, pictures: Sequence[Any], name: str = "image") -> np.ndarray:
        """Embeddings [n,D] of pictures: paths, PIL images, or uint8 arrays."""
        parts = []
        for start in range(0, max(len(pictures), 1), self.block_size):
            images = [self.image(picture, name) for picture in pictures[start : start + self.block_size]]
            rows = np.array(images, np.uint8).reshape(-1, *self.fields[name].shape)
            parts.append(self.encode({name: rows}, (name,))[name])
        return np.concatenate(parts)


@functools.partial(jax.jit, static_argnames=("structure", "want", "unit"))
def _rows(
    structure: Structure, arrays: Arrays, batch: Mapping[str, Any], want: tuple[str, ...], unit: bool
) -> dict[str, Any]:
    outputs = structure.merge(arrays).rows(batch, INFERENCE)
    found = {name: _named(outputs, name, f"the model, given {', '.join(batch)},") for name in want}
    return {name: normalise(x) if unit else x.astype("float32") for name, x in found.items()}


def _named(outputs: Mapping[str, Any], name: str, who: str) -> Any:
    if name not in outputs:
        raise UsageError(f"{who} does not emit '{name}'; {hint(name, [key for key in outputs if key != STATISTICS])}")
    return outputs[name]


def _fill(rows: np.ndarray, size: int) -> np.ndarray:
    """Repeats the first row (or zeros, where there is none) up to ``size`` rows: the result of a row does not depend
    on the others."""
    if len(rows) == size:
        return rows
    first = rows[:1] if len(rows) else np.zeros((1, *rows.shape[1:]), rows.dtype)
    return np.concatenate([rows, np.repeat(first, size - len(rows), axis=0)])
