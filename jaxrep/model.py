"""The trained model that ``jaxrep.load`` returns: encoders with their tokenizer and image transform."""

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from PIL import Image
from rich.console import Console
from rich.progress import track

from jaxrep.batch import INFERENCE, Field, normalize
from jaxrep.block_layout import BlockLayout, explain_full_devices
from jaxrep.computation import Computation
from jaxrep.data.class_texts import select_tables
from jaxrep.data.images.decode import fit_image, open_image
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.mesh import Mesh, shardings
from jaxrep.metrics.calibration import softmax
from jaxrep.model_inputs import check_image, check_images, check_texts, emitted, encoded_fields, token_ids
from jaxrep.objectives.base import Term
from jaxrep.params import Arrays, Structure, digests
from jaxrep.prompts import DEFAULT_TEMPLATES, class_embeddings
from jaxrep.views.base import View

Transform = Callable[[Image.Image], np.ndarray]
"""From an image to uint8 [H,W,3] of the model's input size."""


class Model:
    """Encode images, texts and other fields as embeddings of unit length; the loss is not needed for it."""

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
        self.fields, self.tokenizer, self.transforms = dict(fields), tokenizer, dict(transforms or {})
        self.block_size, self.progress = block_size, progress

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name} {list(field.shape)}" for name, field in self.fields.items())
        return f"Model({inputs}; {sum(array.size for array in self._arrays.values()):,} numbers)"

    def shard(self, mesh: Mesh) -> "Model":
        """Return the model with its parameters sharded over all devices, which also split the rows of a block."""
        model = copy.copy(self)
        model._arrays = jax.device_put(self._arrays, shardings(mesh.build(), mesh, self._arrays))
        return model

    def digest(self) -> str:
        """Return 16 hexadecimal digits, equal for equal parameters (however sharded), inputs and tokenizers."""
        tokenizer = None if self.tokenizer is None else (self.tokenizer.state, self.tokenizer.length)
        inputs = {name: (repr(field), repr(self.transforms.get(name))) for name, field in self.fields.items()}
        state = json.dumps([digests(self._arrays), inputs, tokenizer], sort_keys=True)
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    # Classes and similarities ------------------------------------------------------------------------------------

    def classify(
        self,
        images: Sequence[Any] | np.ndarray,
        names: Sequence[str],
        *,
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        image: str = "image",
        text: str = "text",
    ) -> np.ndarray:
        """Return zero-shot class probabilities float32 [n,K], rows of sum 1 (Radford et al. 2021, section 3.1.4).

        The embedding of a class is the mean over its prompts. Probabilities are the softmax over classes of the learned
        logit scale times the cosine similarity.

        Args:
            images: n images, as ``encode_image`` takes them.
            names: of the K classes.
            templates: prompts with {} for the name; ``jaxrep.prompts`` has CLIP's.
            image: the image tower.
            text: the text tower.

        Raises:
            UsageError: ``names`` is empty, a template has not one {}, or there is no such tower or learned logit scale.
            JaxrepError: the model has no tokenizer.
        """
        check_texts(names, "names")
        if not len(names):
            raise UsageError("names is empty: classify needs at least one class name")
        scale = float(self.per_step(("scale",))["scale"])
        classes = class_embeddings(functools.partial(self.encode_text, name=text), names, templates)
        return softmax(scale * (self.encode_image(images, image) @ classes.T)).astype(np.float32)

    def similarity(
        self, images: Sequence[Any] | np.ndarray, texts: Sequence[str], *, image: str = "image", text: str = "text"
    ) -> np.ndarray:
        """Return the cosine similarity float32 [n,m] of n images and m texts.

        The softmax over texts of ``model.per_step(["scale"])["scale"]`` times it gives probabilities.

        Raises:
            UsageError: the model has no such tower.
            JaxrepError: the model has no tokenizer.
        """
        embedded = self.encode_text(texts, text)
        return self.encode_image(images, image) @ embedded.T

    # Embeddings --------------------------------------------------------------------------------------------------

    def encode(self, batch: Mapping[str, Any], want: Sequence[str], *, normalize: bool = True) -> dict[str, np.ndarray]:
        """Return embeddings by name, float32 [n,D] with rows of unit length.

        Args:
            batch: fields with n rows, any n; images uint8 (or float in [0, 1]) [n,H,W,C], ids int32 [n,L] with
                ``<name>/valid``.
            want: names of the method's outputs per example.
            normalize: False returns outputs as the method emits them.
        """
        if not isinstance(batch, Mapping) or not batch:
            raise UsageError(f"batch is a {type(batch).__name__}, expected one array or more by name")
        check_texts(want, "want")
        n = len(next(iter(batch.values())))
        return self._encode_blocks(n, lambda rows: {name: x[rows] for name, x in batch.items()}, want, normalize)

    def outputs(self, batch: Mapping[str, Any], want: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the same outputs as ``encode``, not normalized."""
        return self.encode(batch, want, normalize=False)

    def encode_text(
        self, texts: Sequence[str] | np.ndarray, name: str = "text", *, valid: np.ndarray | None = None
    ) -> np.ndarray:
        """Return embeddings [n,D], rows of unit length, of texts or of their ids [n,L].

        ``valid`` bool [n,L] is the attention mask of ids: False for padding. Without it the encoder uses its own rule.
        """
        self.require(name)
        if (ids := token_ids(texts)) is not None:
            batch = {name: ids}
            batch |= {} if valid is None else {f"{name}/valid": np.asarray(valid, bool)}
            return self.encode(batch, (name,))[name]
        check_texts(texts)

        def tokens(rows: slice) -> dict[str, np.ndarray]:
            tokens = self.tokenize(texts[rows])  # pyright: ignore[reportArgumentType]
            columns = slice(self._text_length(tokens["text/valid"], name))
            return {name: tokens["text"][:, columns], f"{name}/valid": tokens["text/valid"][:, columns]}

        return self._encode_blocks(len(texts), tokens, (name,), True)[name]

    def encode_image(
        self, images: Sequence[Any] | np.ndarray, name: str = "image", *, output: str = "", normalize: bool = True
    ) -> np.ndarray:
        """Return embeddings [n,D], rows of unit length, of images.

        Args:
            images: paths, PIL images, uint8 arrays [H,W,3], or one float array of normalized images, [n,3,H,W] or
                [n,H,W,3].
            name: the image tower.
            output: another output per example, such as image/pooled; default: ``name``.
            normalize: False returns the output as the method emits it.
        """
        self.require(name)
        check_images(images)
        normalized = hasattr(images, "dtype") and np.asarray(images).dtype.kind == "f"

        def pixels(rows: slice) -> dict[str, np.ndarray]:
            if normalized:
                return {name: self.denormalize(np.asarray(images[rows]), name)}
            block = np.array([self.preprocess(image, name) for image in images[rows]], np.uint8)
            return {name: block.reshape(-1, *self.image_shape(name))}

        return self._encode_blocks(len(images), pixels, (output or name,), normalize)[output or name]

    def per_step(self, want: Sequence[str]) -> dict[str, np.ndarray]:
        """Return outputs that belong to no example, such as a table of classes or the logit scale."""
        check_texts(want, "want")
        outputs = self._structure.merge(self._arrays).per_step(select_tables(self._arrays), INFERENCE)
        return {name: np.asarray(emitted(outputs, name, "the model")) for name in want}

    def losses(self, views: Sequence[View], objective: Mapping[str, Term]) -> Callable[..., tuple[Any, dict[str, Any]]]:
        """Return ``(batch, ctx) -> (loss, metrics)``, compiled: the objective of a batch as training computes it."""
        computation = Computation(self._structure, tuple(views), objective)
        loss = jax.jit(lambda arrays, batch, ctx: computation.loss(arrays, batch, ctx)[:2])
        return functools.partial(loss, self._arrays)

    # Blocks ------------------------------------------------------------------------------------------------------

    @property
    def layout(self) -> BlockLayout:
        """The layout of the rows of a block over hosts and devices."""
        return BlockLayout.of(self._arrays, self.block_size)

    def blocks(self, n: int) -> Iterator[tuple[int, int]]:
        """Yield the first row and the number of rows of each block of n rows.

        Several blocks have a progress bar. No rows are one empty block.
        """
        size = self.layout.max_rows
        starts = range(0, max(n, 1), size)
        quiet = not self.progress or len(starts) == 1
        for start in track(starts, "embedding", console=Console(stderr=True), transient=True, disable=quiet):
            yield start, min(size, n - start)

    def encode_block(
        self, host_arrays: Mapping[str, np.ndarray], rows: int, want: Sequence[str], *, normalize: bool
    ) -> dict[str, np.ndarray]:
        """Return outputs of all rows of one block; all hosts have to call it.

        Args:
            host_arrays: fields of this host's rows (``layout.host_rows``).
            rows: number of rows in the block.
            want: names of outputs.
            normalize: whether rows are scaled to unit length.

        Raises:
            JaxrepError: the devices have too little memory.
        """
        layout = self.layout
        block, slots = layout.scatter(host_arrays, rows)
        with explain_full_devices(rows, self.block_size):
            outputs = _encode(self._structure, self._arrays, block, tuple(want), normalize, layout.replicated)
            return {name: np.asarray(x)[slots] for name, x in outputs.items()}

    def _encode_blocks(
        self, n: int, read: Callable[[slice], Mapping[str, Any]], want: Sequence[str], normalize: bool
    ) -> dict[str, np.ndarray]:
        """Return outputs of n rows, whose fields ``read`` returns block by block."""
        blocks = []
        for start, rows in self.blocks(n):
            host_rows = self.layout.host_rows(rows)
            part = {name: np.asarray(x[host_rows]) for name, x in read(slice(start, start + rows)).items()}
            blocks.append(self.encode_block(part, rows, want, normalize=normalize))
        return {name: np.concatenate([block[name] for block in blocks]) for name in want}

    # Inputs ------------------------------------------------------------------------------------------------------

    def require(self, name: str) -> None:
        """Check that a tower reads the field ``name``.

        Raises:
            UsageError: no tower does.
        """
        if name not in self.fields:
            raise UsageError(f"the model has no tower that reads '{name}'; {hint(name, self.towers())}")

    def towers(self) -> list[str]:
        """Return the fields that the model encodes, each by itself."""
        return encoded_fields(self._structure, self._arrays, self.fields)

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return ``{"text": int32 [n,L], "text/valid": bool [n,L]}``.

        Raises:
            JaxrepError: the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise JaxrepError("this model has no tokenizer, so it cannot read texts: give it token ids")
        check_texts(texts)
        encodings = self.tokenizer(list(texts))
        return {"text": encodings.ids, "text/valid": encodings.valid}

    def _text_length(self, valid: np.ndarray, name: str) -> int:
        """Return the number of tokens per text that the encoder reads.

        That is the longest text's (up to a power of two, so that few shapes are compiled) if padding does not change
        the other tokens, else all.
        """
        encoder = getattr(self._structure.merge(self._arrays), name, None)
        if not getattr(encoder, "inert_padding", False):
            return valid.shape[1]
        longest = int(valid.sum(axis=1).max(initial=8))
        return min(valid.shape[1], 1 << (longest - 1).bit_length())

    def image_shape(self, name: str) -> tuple[int, ...]:
        """Return the height, width and channels of one image (of one view, if training uses several)."""
        return self.fields[name].shape[-3:]

    def preprocess(self, image: Any, name: str = "image") -> np.ndarray:
        """Return an image (path, PIL image or uint8 array) as uint8 [H,W,3] of the model's input size.

        The model's own transform does it. Without one the shorter side is resized (antialiased), the middle is cut out,
        and transparent pixels become white.

        Raises:
            UsageError: the file cannot be read, or an array is not uint8.
        """
        check_image(image)
        height, width, _ = self.image_shape(name)
        if isinstance(image, str | PathLike):
            try:
                return open_image(Path(image).read_bytes(), lambda opened: self.preprocess(opened, name))
            except OSError as error:
                raise UsageError(f"the image {image} cannot be read: {error.strerror or error}") from error
            except ValueError as error:
                raise UsageError(f"{image}: {error}") from error
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8:
                raise UsageError(f"an image as an array has to be uint8, got {image.dtype} of shape {image.shape}")
            if image.shape == (height, width, 3):
                return image
            image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        transform = self.transforms.get(name)
        return transform(image) if transform else fit_image(image, height, width)

    def denormalize(self, images: np.ndarray, name: str = "image") -> np.ndarray:
        """Return normalized images, float [n,3,H,W] or [n,H,W,3], as float32 [n,H,W,3] in [0,1].

        The encoder normalizes them again, so it reads what was given, up to float32 rounding.
        """
        height, width, channels = self.image_shape(name)
        if images.shape[1:] == (channels, height, width):
            images = images.transpose(0, 2, 3, 1)
        if images.shape[1:] != (height, width, channels):
            raise UsageError(
                f"a float array of normalized images has shape [n,{channels},{height},{width}] or "
                f"[n,{height},{width},{channels}], got {list(images.shape)}"
            )
        norm = getattr(getattr(self._structure.merge(self._arrays), name), "pixels", None)
        if norm is None:
            raise UsageError(f"the encoder of '{name}' does not state how it normalizes pixels: give it uint8 images")
        return images.astype(np.float32) * np.float32(norm.std) + np.float32(norm.mean)


@functools.partial(jax.jit, static_argnames=("structure", "want", "unit", "replicated"))
def _encode(
    structure: Structure,
    arrays: Arrays,
    batch: Mapping[str, Any],
    want: tuple[str, ...],
    unit: bool,
    replicated: NamedSharding | None,
) -> dict[str, Any]:
    """Return outputs by name, on every device whole if there are several (``replicated``)."""
    every = structure.merge(arrays).per_example(batch, INFERENCE)
    outputs = {name: emitted(every, name, f"the model, given {', '.join(batch)},") for name in want}
    outputs = {name: normalize(x) if unit else x.astype("float32") for name, x in outputs.items()}
    return outputs if replicated is None else jax.lax.with_sharding_constraint(outputs, replicated)
