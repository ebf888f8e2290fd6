"""Tensors of a checkpoint, in one safetensors file or in shards: headers are read first, values on demand.

The safetensors library checks headers (length, JSON, offsets, overlaps, a truncated file) and reads without mapping the
file into memory, so a tensor's bytes are resident only while it is copied.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches NumPy the name bfloat16, which the safetensors library asks for)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxrep.errors import JaxrepError, UsageError

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
REFUSAL = (
    "a pickle runs code of its author while it is read, so it is refused: convert it to safetensors where you trust it"
)
INDEX = "{stem}.safetensors.index.json"
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before the name of every tensor."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Hold the header of one tensor."""

    shape: tuple[int, ...]
    dtype: str  # in the format's spelling: F32, BF16 …
    file: Path
    name: str = ""  # in the file, if it is another one


@dataclasses.dataclass(frozen=True)
class Tensors:
    """Hold the headers of tensors by name, and read values."""

    entries: Mapping[str, Entry]
    where: Path  # the file, or the index of the shards

    def read(self, name: str) -> np.ndarray:
        """Return the values in their stored type.

        Raises:
            JaxrepError: the file changed or vanished.
        """
        entry = self.entries[name]
        try:
            with safe_open(entry.file, "np", backend="pread") as file:
                return file.get_tensor(entry.name or name)
        except (SafetensorError, OSError) as error:
            raise JaxrepError(f"tensor '{name}' of {entry.file} cannot be read: {error}") from error


def open_folder(folder: Path, stem: str = "model") -> Tensors:
    """Open ``<stem>.safetensors``, the shards of its index, or the only safetensors file of a folder.

    A wrapper's prefix of all names is left out.

    Raises:
        UsageError: there is no such file or several, a pickle, a damaged header, or an index that does not fit its
            shards.
    """
    index = folder / INDEX.format(stem=stem)
    if index.is_file():
        return unwrapped(open_shards(index))
    single = folder / f"{stem}.safetensors"
    files = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return unwrapped(Tensors(open_file(files[0]), files[0]))
    if files:
        raise UsageError(
            f"{folder} holds {', '.join(file.name for file in files)} and no {index.name}: keep one of them, named "
            f"{single.name}"
        )
    if pickles := sorted(file for file in folder.iterdir() if file.suffix in PICKLES):
        raise UsageError(f"{folder} holds {pickles[0].name} and no safetensors file: {REFUSAL}")
    raise UsageError(f"{folder} holds no safetensors file: {single.name} is expected")


def unwrapped(tensors: Tensors) -> Tensors:
    """Return tensors by their names without the prefixes of ``WRAPPERS`` that all of them have."""
    entries = dict(tensors.entries)
    while prefix := next((p for p in WRAPPERS if entries and all(name.startswith(p) for name in entries)), ""):
        renamed = {name: dataclasses.replace(entry, name=entry.name or name) for name, entry in entries.items()}
        entries = {name.removeprefix(prefix): entry for name, entry in renamed.items()}
    return Tensors(entries, tensors.where)


def open_file(file: Path) -> dict[str, Entry]:
    """Return the headers of one file.

    Raises:
        UsageError: it is not a valid safetensors file.
    """
    try:
        with safe_open(file, "np", backend="pread") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
            return {name: Entry(tuple(s.get_shape()), s.get_dtype(), file) for name, s in slices.items()}
    except SafetensorError as error:
        with file.open("rb") as raw:
            start = raw.read(4)
        if start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
            raise UsageError(f"{file} is not a safetensors file: {REFUSAL}") from None
        raise UsageError(f"{file} is not a complete safetensors file: {error}") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be opened: {error.strerror}") from error


def open_shards(index: Path) -> Tensors:
    """Open the shards of an index.

    Raises:
        UsageError: the index does not fit its shards.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(shard, str) for shard in names.values()):
        raise UsageError(f"{index} is not an index of shards: 'weight_map' should state the file of each tensor")
    entries: dict[str, Entry] = {}
    for shard in sorted(set(names.values())):
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise UsageError(f"{index} names the shard '{shard}', and there is no such file beside it")
        headers = open_file(index.parent / shard)
        if wrong := sorted(headers.keys() ^ {name for name in names if names[name] == shard}):
            raise UsageError(f"{index} and the header of '{shard}' disagree about tensor {listed(wrong)}")
        entries |= headers
    return Tensors(entries, index)


def read_json(file: Path, kind: type[dict] | type[list] = dict) -> Any:
    """Read a file with one JSON object, or one list.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, kind):
        expected = "object" if kind is dict else "list"
        raise UsageError(f"{file} should hold a JSON {expected}, and holds a {type(content).__name__}")
    return content


def write(folder: Path, tensors: Mapping[str, np.ndarray], stem: str = "model") -> Path:
    """Write ``<stem>.safetensors``, with the metadata that transformers requires."""
    file = folder / f"{stem}.safetensors"
    save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, file, metadata={"format": "pt"})
    return file


def listed(names: Sequence[str]) -> str:
    """Return the first name, and the number of others."""
    return f"'{names[0]}'" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
