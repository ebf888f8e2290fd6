"""Decode examples that lie encoded in files, whatever the files' format.

The parts of an example are ``image``, ``text``, ``label``, ``mask`` (the class of every pixel), and further captions
and numbers under other names. A text may be a list of captions: its field is a tuple. Ids are hashes of the content
(``content_id``), so that equal images and equal texts are known without a pass over the data.
"""

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.hashing import content_id, text_id
from jaxrep.data._util.ranges import Range
from jaxrep.data.decode import decode_label, decode_text
from jaxrep.data.images.crop import HostCenterCrop, HostCrop
from jaxrep.data.images.decode import MAX_BYTES, decode_image, decode_label_map
from jaxrep.data.source import Examples, Keys, Source, Substitute, digest, read_or_substitute, stack
from jaxrep.data.sources.numbers import Numbers
from jaxrep.data.sources.patterns import beside
from jaxrep.data.sources.values import Content, join_column, metadata_column
from jaxrep.errors import BadSample, BadShard, JaxrepError, UsageError, as_bad_sample, hint
from jaxrep.spec import Count, Natural, spec
from jaxrep.storage import FileVersion, file_version, is_remote, read_bytes

MAX_PATH = 1024
"""Most characters of a path or URL."""
Contents = Mapping[str, Content]
"""Part of an example -> its bytes."""
RESERVED = frozenset(("key", "image", "text", "label", "mask"))
"""Names that no further caption or number may have."""


@spec
class EncodedSource(Source, abc.ABC):
    """Declare a source whose parts are decoded from files."""

    image_size: Count = 224
    """Height and width of the images in pixels."""
    crop: HostCrop = HostCenterCrop()
    """Crop of an image, which is resized to this size; random crops are drawn in training only."""
    classes: Natural = 0
    """Number of classes of a label or a pixel, which gives a classifier's width; 0: unknown."""

    @abc.abstractmethod
    def parts(self) -> tuple[str, ...]:
        """Return the parts of an example: image, text, label or mask, and the names of further captions and numbers."""

    def further_captions(self) -> tuple[str, ...]:
        """Return the names of further captions."""
        return ()

    def number_parts(self) -> Mapping[str, Numbers]:
        """Return the parts that are numbers, by name."""
        return {}

    def places(self) -> Mapping[str, str]:
        """Return of what each part is read, in words; parts that have one place only may be left out."""
        return {}

    def problems(self) -> Iterator[str]:
        further = [*self.further_captions(), *self.number_parts()]
        ids = {f"{part}_id" for part in self.parts() if part not in self.number_parts()}
        if taken := sorted(name for name in further if name in RESERVED | ids or further.count(name) > 1):
            place = f": give its place as {taken[0]}=" if taken[0] in ("image", "text", "label") else ""
            yield f"captions and numbers are fields by their names, and {taken[0]!r} is one already{place}"
        if not self.parts():
            yield "an example is empty: name an image, a text or a label"

    def fields(self) -> dict[str, Field]:
        size, number = self.image_size, Field((), "int32")
        special: dict[str, dict[str, Field]] = {
            "image": {"image": Field((size, size, 3), "uint8"), "image_id": number},
            "label": {"label": Field((), "int32", self.classes or None)},
            "mask": {"mask": Field((size, size), "int32", self.classes or None)},
        }
        special |= {name: {name: numbers.field()} for name, numbers in self.number_parts().items()}
        parts = (special.get(part) or {part: Field((), "str"), f"{part}_id": number} for part in self.parts())
        return {"key": Field((), "str")} | {name: field for fields in parts for name, field in fields.items()}


class EncodedExamples(Examples, abc.ABC):
    """Read and decode examples in files; a subclass reads the bytes of a part.

    It can be pickled, and threads may read at the same time: no file stays open between two reads.
    """

    def __init__(self, source: EncodedSource):
        self.source = source
        self._names, self._numbers = tuple(source.fields()), source.number_parts()

    @abc.abstractmethod
    def key(self, index: int) -> str:
        """Return the name of an example, which does not change when others are added."""

    @abc.abstractmethod
    def content(self, index: int, part: str) -> Content:
        """Read the bytes of one part of an example. Raises BadSample, or ValueError with the reason."""

    @abc.abstractmethod
    def place(self, index: int, part: str) -> str:
        """Describe where these bytes lie."""

    def metadata(self, index: int) -> Mapping[str, Any]:
        """Read further values of an example, by the names of their columns."""
        return {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._example(index)

    def gather(self, indices: np.ndarray, keys: Keys = None, substitute: Substitute | None = None) -> dict[str, Any]:
        """Read examples; each image is decoded into its place in the batch, because a copy of all takes long."""
        size, draws = self.source.image_size, [None] * len(indices) if keys is None else keys.tolist()
        images = np.empty((len(indices), size, size, 3), np.uint8) if "image" in self._names else draws
        rows = read_or_substitute(lambda row, index: self._example(index, draws[row], images[row]), indices, substitute)
        return {name: images if name == "image" else stack([row[name] for row in rows]) for name in self._names}

    def _example(self, index: int, key: int | None = None, into: Any = None) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        return self.decoded(index, self.contents(index), key, into)

    def contents(self, index: int, only: str = "") -> dict[str, Any]:
        """Read the bytes of every part of an example, or ``only`` of one. Raises BadSample."""
        contents = {}
        for part in self.source.parts():
            if part == (only or part):
                with self.explain_errors(index, part):
                    contents[part] = self.content(index, part)
        return contents

    def check(self, index: int, contents: Contents) -> None:
        """Check that texts and labels can be decoded; the image is not decoded. Raises BadSample."""
        for part in contents.keys() - {"image"}:
            self._value(part, index, contents)

    def decoded(self, index: int, contents: Contents, key: int | None = None, into: Any = None) -> dict[str, Any]:
        """Decode an example from the bytes of its parts. Raises BadSample.

        ``key``: 64 bits, from which random choices (a crop) follow; None outside training. ``into``: array for the
        image.
        """
        return {name: self._value(name, index, contents, key, into) for name in self._names}

    def column(self, name: str) -> Any:
        """Read one field, or one column of the metadata, of every example without the rest.

        An unknown value is "", -1 (a label, an id) or NaN (a number of the metadata), so that one bad caption does not
        stop a pass over all examples; an image that cannot be decoded raises BadSample.
        """
        rows = range(len(self))
        if name == "image":
            return stack([self.field(index, name) for index in rows])
        if name in self._names:
            return stack([value_or(self._unknown(name), self.field, index, name) for index in rows])
        return join_column(list(self.column_parts(name)))

    def column_names(self) -> Sequence[str]:
        metadata: Mapping[str, Any] = {}
        with contextlib.suppress(JaxrepError):  # the first example cannot be read
            metadata = self.metadata(0) if len(self) else {}
        return tuple(dict.fromkeys([*self._names, *metadata]))

    def read_from(self, name: str) -> str:
        return self.source.places().get(name, "")

    def column_parts(self, name: str) -> Iterator[Any]:
        if name in self._names:
            yield self.column(name)
            return
        metadata = [value_or({}, self.metadata, index) for index in range(len(self))]
        if not any(name in row for row in metadata):
            raise UsageError(f"the examples have no column '{name}'; {hint(name, {*self._names, *metadata[0]})}")
        yield metadata_column([row.get(name) for row in metadata])

    def _unknown(self, name: str) -> Any:
        """Return what a column holds for an example whose field cannot be read."""
        field = self.source.fields()[name]
        if field.dtype == "str":
            return ("",) * field.shape[0] if field.shape else ""
        return (
            np.full(field.shape, np.nan, np.float32) if field.dtype == "float32" else np.full(field.shape, -1, np.int32)
        )

    def field(self, index: int, name: str) -> Any:
        """Read one field of an example without the rest. Raises BadSample."""
        return self._value(name, index, self.contents(index, self._part(name)))

    def _part(self, name: str) -> str:
        """Return the part of an example from which a field follows: itself, or that of an id."""
        return name if name in self._numbers else name.removesuffix("_id")

    def _value(self, name: str, index: int, contents: Contents, key: int | None = None, into: Any = None) -> Any:
        if name == "key":
            return self.key(index)
        part, size = self._part(name), self.source.image_size
        content: Any = contents[part]
        with self.explain_errors(index, part):
            if name in self._numbers:
                return self._numbers[name].decode(content, name)
            match name:
                case "image":
                    return decode_image(content, size, size, self.source.crop, key, into)
                case "image_id":
                    return content_id(content)
                case "label":
                    return decode_label(content, self.source.classes)
                case "mask":
                    return decode_label_map(content, size, size, self.source.crop, key)
            decode = decode_text if name == part else text_id
            return tuple(map(decode, content)) if isinstance(content, tuple) else decode(content)

    def explain_errors(self, index: int, part: str) -> contextlib.AbstractContextManager[None]:
        """Return a context that turns any error into a BadSample that names the place of a part."""
        return as_bad_sample(lambda: self.place(index, part))


class ListedExamples(EncodedExamples):
    """Read examples of the file or folder ``path`` that are listed in memory, as ``rows``."""

    def __init__(self, source: EncodedSource, path: str, rows: Sequence[Any]):
        super().__init__(source)
        self._path, self._rows = path, rows

    def __len__(self) -> int:
        return len(self._rows)

    def shard(self, index: int) -> str:
        return self._path

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"digest": digest(self._rows)}


class ShardedExamples(Examples):
    """Locate the examples of files (shards), one file after the other. A subclass reads them."""

    only_whole: ClassVar[bool] = False
    """Whether a remote file is read as a copy of the whole."""

    def __init__(self, shards: Sequence[str], counts: Sequence[int]):
        self._shards, self._ends = shards, np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def shard_ends(self) -> np.ndarray:
        return self._ends

    def find(self, index: int) -> tuple[int, int]:
        """Return the number of the shard of an example, and its number in the shard."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, int(index - (self._ends[number - 1] if number else 0))

    def shard(self, index: int) -> str:
        return self._shards[self.find(index)[0]]

    @property
    def paths(self) -> Sequence[str]:
        """Return the paths of the files."""
        return self._shards

    def is_remote(self) -> bool:
        """Return whether any of the files is behind a URL."""
        return any(map(is_remote, self._shards))

    def version(self, number: int) -> FileVersion:
        """Return the version of a file that the examples are read from. Raises BadShard."""
        return file_version(self._shards[number])

    def ranges(self, number: int, rows: np.ndarray) -> list[Range]:
        """Return the bytes of a file that reading some of its examples needs; none if that is known only to the format.

        Raises BadShard.
        """
        return []

    def shard_facts(self) -> Sequence[Any]:
        """Return the bytes of each file, or what else tells one content from another without reading it."""
        with ThreadPoolExecutor(8) as pool:
            return [version.size for version in pool.map(file_version, self._shards)]

    def fingerprint(self) -> dict[str, Any]:
        names = [path.rpartition("/")[2] for path in self._shards]
        facts = zip(names, self.shard_facts(), self._ends.tolist(), strict=True)
        return super().fingerprint() | {"shards": len(names), "digest": digest(facts)}


def value_or(default: Any, read: Callable[..., Any], *args: Any) -> Any:
    """Return ``read(*args)``, or the default where an example cannot be read."""
    try:
        with as_bad_sample(""):
            return read(*args)
    except BadSample:
        return default


def read_beside(folder: str, path: str, place: str) -> bytes:
    """Read the file of one part of an example, as data name it: in ``folder``, or a URL. Raises BadSample."""
    if len(path) > MAX_PATH:
        raise BadSample(place, f"it is a text of {len(path):,} characters, and neither bytes nor a path: {path}")
    try:
        content = read_bytes(beside(folder, path), size=MAX_BYTES + 1)
    except (BadShard, UsageError) as error:
        raise BadSample(place, f"the file cannot be read ({error})") from error
    if len(content) > MAX_BYTES:
        raise BadSample(place, f"the file has more than {MAX_BYTES:,} bytes, which are read of one part")
    return content
