"""Embeds images or texts with the model of a run, into a .npz file: ``image``, ``text`` [n,D] and ``names`` [n]."""

import argparse
import os
import sys
import tempfile
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from jaxrep.commands.models import add_arguments, check_out, load
from jaxrep.data.decode import BadSample
from jaxrep.data.grammar import parse, read
from jaxrep.data.source import Examples
from jaxrep.data.tar import TarShards
from jaxrep.errors import JaxrepError, UsageError

if TYPE_CHECKING:
    from jaxrep.model import Model


def main(args: list[str]) -> int:
    """``jaxrep embed RUN SOURCE --out FILE.npz [--image NAME …] [--text NAME]``"""
    parser = argparse.ArgumentParser(prog="jaxrep embed", description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of images, tars (train-{00..09}.tar), a .csv, a .txt with a text a line, or any KIND:WHERE (see "
        "jaxrep data --help)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--image", metavar="NAME", nargs="+", default=[], help="column of a table; extensions in a tar")
    parser.add_argument("--text", metavar="NAME", default="", help="column of a table; extension in a tar")
    parser.add_argument("--separator", default=",", help="between the columns of a .csv (default: a comma)")
    given = parser.parse_args(args)
    check_out(given.out)
    model, _ = load(given)
    found, bad = embed(model, examples(given, model))
    write(given.out, found)
    _report(given.out, found, bad)
    return 0


def examples(given: argparse.Namespace, model: "Model") -> Examples:
    """What SOURCE holds. Raises UsageError."""
    cls, said = read(given.source)
    fields: dict[str, Any] = {"labels_from_folders": False}
    if "image" in model.fields:
        fields["image_size"] = model.fields["image"].shape[0]
    if cls is TarShards and not (given.image or given.text):
        fields["text"] = ""
    elif "text" in typing.get_type_hints(cls):
        fields |= {"image": _image(given, cls), "text": given.text, "separator": given.separator}
    elif given.image or given.text:
        raise UsageError(f"--image and --text name parts of an example, and those of {given.source} have no names")
    try:
        return parse(given.source, fields).open()
    except UsageError as error:
        named = cls is TarShards or said.keys() & {"image", "text"} or "holds nothing" not in str(error)
        raise error if named else UsageError(f"{error}; by --image or --text") from None


def _image(given: argparse.Namespace, cls: type) -> str | tuple[str, ...]:
    """--image as the source takes it: extensions in a tar, or one column."""
    if cls is TarShards:
        return tuple(given.image)
    if len(given.image) > 1:
        raise UsageError(f"--image names one column of {given.source}, not {len(given.image)}")
    return "".join(given.image)


def embed(model: "Model", examples: Examples) -> tuple[dict[str, Any], list[BadSample]]:
    """``image`` and ``text`` float32 [n,D] as far as the examples have them, ``names``; and what could not be read."""
    blocks, names, bad = [], [], []
    for rows, failed in _read(examples, model.block_size):
        bad += failed
        if rows:
            blocks.append(_encode(model, rows))
            names += [row["key"] for row in rows]
    if not blocks:
        raise JaxrepError(
            f"none of the {len(bad)} examples can be read; the first: {bad[0]}" if bad else "there is no example"
        )
    arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return {**arrays, "names": np.array(names)}, bad


def _encode(model: "Model", rows: list[dict[str, Any]]) -> dict[str, Any]:
    batch = {}
    if "image" in rows[0]:
        batch["image"] = np.stack([row["image"] for row in rows])
    if "text" in rows[0]:
        batch |= model.tokenize([row["text"] for row in rows])
    return model.encode(batch, [name for name in ("image", "text") if name in batch])


def _read(examples: Examples, size: int) -> Iterator[tuple[list[dict[str, Any]], list[BadSample]]]:
    """Blocks of up to ``size`` examples, and of those among them that cannot be read; with a bar on stderr."""

    def one(index: int) -> dict[str, Any] | BadSample:
        try:
            return examples[index]
        except BadSample as error:
            return error

    starts = range(0, len(examples), size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in track(starts, "embedding", console=Console(stderr=True)):
            found = list(pool.map(one, range(start, min(start + size, len(examples)))))
            yield [row for row in found if isinstance(row, dict)], [row for row in found if isinstance(row, BadSample)]


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Writes a .npz file whole or not at all. Raises JaxrepError where it cannot be written."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise JaxrepError(f"{path} cannot be written ({error.strerror})") from error
        raise


def _report(path: Path, found: dict[str, Any], bad: list[BadSample]) -> None:
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items() if name != "names")
    print(f"wrote {shapes} and {len(found['names'])} names to {path}")
    if bad:
        print(f"{len(bad)} could not be read and are left out:", *bad, sep="\n  ", file=sys.stderr)
