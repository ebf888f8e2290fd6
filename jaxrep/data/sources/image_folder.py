"""Read images from a folder."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedSource, ListedExamples, read_beside
from jaxrep.data.sources.patterns import in_folder, list_remote, local
from jaxrep.errors import UsageError
from jaxrep.spec import spec
from jaxrep.storage import is_remote

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
"""Extensions of image files."""
SHARDS = (".tar", ".parquet", ".array_record", ".arrayrecord")
"""Extensions of files of many examples, which are no images."""


@spec
class ImageFolder(EncodedSource):
    """Read the images in a folder and its sub-folders, in the order of their names."""

    path: str
    """The folder, or its URL."""
    labels_from_folders: bool = True
    """Whether an image's label is its sub-folder; sub-folders are numbered from 0 in alphabetical order."""

    def parts(self) -> tuple[str, ...]:
        return ("image", "label") if self.labels_from_folders else ("image",)

    def open(self) -> Examples:
        root = local(self.path).rstrip("/") or "/"
        names = list_images(root)
        if not self.labels_from_folders:
            return ImageFolderExamples(self, root, names)
        if unlabeled := [name for name in names if "/" not in name]:
            raise UsageError(f"{root}/{unlabeled[0]} lies in no sub-folder, so it has no label (labels_from_folders)")
        folders = sorted({name.partition("/")[0] for name in names})
        if self.classes not in (0, len(folders)):
            raise UsageError(f"{root} has {len(folders)} folders of images, but classes is {self.classes}")
        return ImageFolderExamples(self, root, names, folders)


def list_images(root: str) -> list[str]:
    """Return the sorted paths of the images below ``root``, relative to it, without hidden ones.

    Raises UsageError: there is no image, or the folder cannot be listed.
    """
    names = [name for name in _list(root) if not any(part.startswith(".") for part in name.split("/"))]
    endings = [os.path.splitext(name)[1].lower() for name in names]
    if images := sorted(name for name, ending in zip(names, endings, strict=True) if ending in EXTENSIONS):
        return images
    others = ", ".join(f"{count:,} in {ending or 'nothing'}" for ending, count in Counter(endings).most_common(5))
    found = f"; its files end {others}" if others else "; it has no visible file"
    shards = [name for name in names if name.endswith(SHARDS)]
    found += f"; to read the shards, name them, as '{in_folder(root, shards)}'" if shards else ""
    raise UsageError(f"{root} has no image: no file that ends in {', '.join(sorted(EXTENSIONS))}{found}")


def _list(root: str) -> Iterator[str]:
    if is_remote(root):
        root_name, names = list_remote(root, lambda files, name: (name, files.find(name)))
        yield from (path.removeprefix(root_name).lstrip("/") for path in names)
        return
    if not os.path.isdir(root):
        raise UsageError(f"there is no folder {root}")
    folders: list[tuple[str, tuple[str, ...]]] = [(root, ())]
    while folders:
        folder, above = folders.pop()
        real = os.path.realpath(folder)
        if real in above:  # a link to a folder that holds it
            continue
        try:
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError as error:
            raise UsageError(f"the folder {folder} cannot be listed ({error.strerror})") from error
        folders += [(entry.path, (*above, real)) for entry in entries if entry.is_dir()]
        yield from (Path(entry.path).relative_to(root).as_posix() for entry in entries if not entry.is_dir())


class ImageFolderExamples(ListedExamples):
    """Read the images ``names`` below ``root``; sub-folders in ``folders`` are labels."""

    def __init__(self, source: EncodedSource, root: str, names: Sequence[str], folders: Sequence[str] = ()):
        super().__init__(source, root, names)
        self._labels = {folder: number for number, folder in enumerate(folders)}
        self.classes = {"label": list(folders)} if folders else {}

    def key(self, index: int) -> str:
        return self._rows[index]

    def content(self, index: int, part: str) -> bytes:
        if part == "label":
            return str(self._labels[self._rows[index].partition("/")[0]]).encode()
        folder, name = self.file(index, part)
        return read_beside(folder + "/", name, self.place(index, part))

    def file(self, index: int, part: str) -> tuple[str, str]:
        """Return the folder of a part, and the path of its file there."""
        return self._path, self._rows[index]

    def place(self, index: int, part: str) -> str:
        return "/".join(self.file(index, part))

    def shard(self, index: int) -> str:
        return self.place(index, "image")
