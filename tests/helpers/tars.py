"""Tars of tiny pictures and captions, as tests write them."""

import io
import tarfile

import numpy as np
from PIL import Image

from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import BadSample


def picture(level):
    """A PNG of 5 x 5 pixels of one red."""
    file = io.BytesIO()
    Image.new("RGB", (5, 5), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def npy(array):
    """An array in NumPy's format."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def write(path, members, **options):
    """A tar of (name, content)."""
    with tarfile.open(path, "w", **options) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def pairs(numbers):
    """Members of examples: a picture and its caption each; content takes a block of 512 bytes."""
    return [
        member for n in numbers for member in ((f"{n:04}.png", picture(n)), (f"{n:04}.txt", f"number {n}\n".encode()))
    ]


def read_all(path):
    """Return the readable texts of a tar, and the errors of the other examples."""
    examples = TarShards(shards=str(path), image_size=4).open()
    good, bad = [], []
    for index in range(len(examples)):
        try:
            good.append(examples[index]["text"])
        except BadSample as error:
            bad.append(str(error))
    assert len(good) + len(bad) == len(examples)
    return good, bad
