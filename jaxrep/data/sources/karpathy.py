"""Read Karpathy's splits of COCO, Flickr30k and Flickr8k: a JSON file that lists images, captions and splits.

Karpathy & Fei-Fei 2015, Deep Visual-Semantic Alignments for Generating Image Descriptions, section 4; the files
``dataset_coco.json``, ``dataset_flickr30k.json`` and ``dataset_flickr8k.json``. The images lie in the folders that the
file names (COCO: ``train2014``, ``val2014``) or in one folder.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrep.batch import Field
from jaxrep.data.source import Examples, digest
from jaxrep.data.sources.encoded import Contents, EncodedSource
from jaxrep.data.sources.image_folder import ImageFolderExamples
from jaxrep.data.sources.patterns import local, read_utf8
from jaxrep.errors import BadSample, UsageError, hint
from jaxrep.spec import Natural, spec


@spec
class Karpathy(EncodedSource):
    """Read the images of one split, each with a tuple of captions."""

    path: str
    """The JSON file, or its URL."""
    images: str
    """The folder of the images, or its URL."""
    split: str = "test"
    """train, restval, val or test; train+restval takes both."""
    captions_per_image: Natural = 5
    """Take this number of captions, the first ones, as results are reported; 0: all, 5 to 7 in COCO."""

    def parts(self) -> tuple[str, ...]:
        return ("image",)

    def fields(self) -> dict[str, Field]:
        shape = (self.captions_per_image,) if self.captions_per_image else ()
        return super().fields() | {"text": Field(shape, "str")}

    def open(self) -> Examples:
        path = local(self.path)
        try:
            images = json.loads(read_utf8(path))["images"]
            rows = [(_file(row), row["split"], [s["raw"].strip() for s in row["sentences"]]) for row in images]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} does not have the layout of Karpathy's dataset_coco.json ({error!r})") from error
        wanted, splits = self.split.split("+"), {split for _, split, _ in rows}
        if unknown := sorted(set(wanted) - splits):
            raise UsageError(f"{path} has no split '{unknown[0]}'; {hint(unknown[0], splits)}")
        return KarpathyExamples(self, [(file, texts) for file, split, texts in rows if split in wanted])


def _file(row: Mapping[str, Any]) -> str:
    return "/".join(part for part in (row.get("filepath", ""), row["filename"]) if part)


class KarpathyExamples(ImageFolderExamples):
    """Read images, as (path below the folder, captions)."""

    def __init__(self, source: Karpathy, rows: Sequence[tuple[str, Sequence[str]]]):
        super().__init__(source, local(source.images).rstrip("/"), [file for file, _ in rows])
        self._captions, self._count = [texts for _, texts in rows], source.captions_per_image or None

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"digest": digest([*self._rows, *self._captions])}

    def _value(self, name: str, index: int, contents: Contents, *drawn: Any) -> Any:
        if name != "text":
            return super()._value(name, index, contents, *drawn)
        texts, least = self._captions[index], self._count or 1
        if len(texts) < least:
            raise BadSample(self.key(index), f"it has {len(texts)} captions, and {least} are read")
        return tuple(texts[: self._count])
