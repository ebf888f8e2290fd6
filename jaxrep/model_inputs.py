"""Check the images and texts that a user gives a model, and find the fields that it encodes and what it emits."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxrep.batch import INFERENCE, Field
from jaxrep.errors import UsageError, hint
from jaxrep.methods.base import BATCH_STATS
from jaxrep.params import Arrays, Structure


def token_ids(texts: Any) -> np.ndarray | None:
    """Return token ids int32 [n,L] if ``texts`` holds ids, and None if it holds anything else. Raises UsageError."""
    first = texts[0] if isinstance(texts, list | tuple) and len(texts) else None
    if getattr(getattr(texts, "dtype", None), "kind", "") not in tuple("iu") and not isinstance(
        first, list | np.ndarray
    ):
        return None
    try:
        ids = np.asarray(texts)
    except ValueError:  # rows of several lengths
        ids = np.zeros(0)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise UsageError("token ids are one array of integers [n,L], expected rows of one length")
    return ids.astype(np.int32)


def check_texts(texts: Any, name: str = "texts") -> None:
    """Check that ``texts`` is a list of strings. ``name``: of the argument. Raises UsageError."""
    if isinstance(texts, str | bytes):
        raise UsageError(f"{name} is one string, expected a list of strings: write [{texts!r}]")
    if not isinstance(texts, Sequence | np.ndarray):
        raise UsageError(f"{name} is a {type(texts).__name__}, expected a list of strings")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"{name}[{i}] is a {type(text).__name__}, expected a string")


def check_images(images: Any) -> None:
    """Check that ``images`` is a list of paths, PIL images or arrays, or one array of images. Raises UsageError."""
    one = isinstance(images, str | bytes | PathLike | Image.Image)
    if one or (isinstance(images, np.ndarray) and images.ndim == 3):
        raise UsageError(f"images is one image ({_described(images)}), expected a list of images: write [image]")
    if hasattr(images, "dtype"):
        return
    if not isinstance(images, Sequence):
        raise UsageError(f"images is a {type(images).__name__}, expected a list of images")
    for i, image in enumerate(images):
        check_image(image, f"images[{i}]")


def check_image(image: Any, name: str = "image") -> None:
    """Check that ``image`` is a path, a PIL image, or an array [H,W] or [H,W,C].

    ``name``: of the argument. Raises UsageError.
    """
    array = isinstance(image, np.ndarray) and (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] in (1, 3, 4)))
    if not (array or isinstance(image, str | PathLike | Image.Image)):
        raise UsageError(f"{name} is {_described(image)}, expected a path, a PIL image or a uint8 array [H,W,3]")


def _described(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def encoded_fields(structure: Structure, arrays: Arrays, fields: Mapping[str, Field]) -> list[str]:
    """Return the fields that a method encodes, each by itself: it emits an output of that name, traced by shape."""

    def encodes(name: str) -> bool:
        given = {key: fields[key] for key in (name, f"{name}/valid") if key in fields}
        batch = {key: jax.ShapeDtypeStruct((1, *field.shape), field.dtype) for key, field in given.items()}
        try:
            emitted = jax.eval_shape(lambda a, b: structure.merge(a).per_example(b, INFERENCE), arrays, batch)
        except Exception:  # a method says in its own way that it needs other fields
            return False
        return name in emitted

    return [name for name in fields if "/" not in name and encodes(name)]


def emitted(outputs: Mapping[str, Any], name: str, who: str) -> Any:
    """Return an output of a method. ``who``: emits it. Raises UsageError: it is missing."""
    if name not in outputs:
        raise UsageError(f"{who} does not emit '{name}'; {hint(name, [key for key in outputs if key != BATCH_STATS])}")
    return outputs[name]
