"""Examples that lie encoded in files and are decoded when they are read, whatever holds them.

The parts of an example are ``image``, ``text``, ``label``, ``mask`` (the class of every pixel), and further captions by
names of their own. Ids are hashes
of content (``decode.content_id``), so that equal pictures and equal texts are known without a pass over the data.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data import values
from jaxrep.data.images.crop import HostCenterCrop, HostCrop
from jaxrep.data.images.image import image, label_map
from jaxrep.data.source import Examples, Instead, Source, stack, tried
from jaxrep.errors import BadSample, BadShard, UsageError, hint
from jaxrep.spec import spec
from jaxrep.storage import read


@spec
class EncodedSource(Source):
    """Abstract: examples whose parts are decoded from files."""

    image_size: int = 224
    """Height and width of the pictures in pixels."""
    crop: HostCrop = HostCenterCrop()
    """Which part of a picture is cut out and resized to this size; what is drawn is drawn in training only."""
    classes: int = 0
    """How many values a label takes, of a picture or of a pixel; 0: not said. A classifier's width follows from it."""

    def parts(self) -> tuple[str, ...]:
        """Which of image, text and label an example has, and the names of its further captions."""
        raise TypeError(f"{type(self).__name__} does not say what an example holds")

    def problems(self) -> Iterator[str]:
        if self.image_size < 1:
            yield f"image_size counts pixels and is at least 1, not {self.image_size}"
        if self.classes < 0:
            yield f"classes counts the values of a label, 0 for not said; it is not {self.classes}"
        if taken := sorted({"key", "image", "text", "label", "mask"}.intersection(getattr(self, "captions", ()))):
            yield f"captions are fields by their names, and {taken[0]!r} is one already"
        if not self.parts():
            yield "an example holds nothing: name an image, a text or a label"

    def fields(self) -> dict[str, Field]:
        size, number = self.image_size, Field((), "int32")
        every = {
            "image": {"image": Field((size, size, 3), "uint8"), "image_id": number},
            "label": {"label": Field((), "int32", self.classes or None)},
            "mask": {"mask": Field((size, size), "int32", self.classes or None)},
        }
        parts = (every.get(part) or {part: Field((), "str"), f"{part}_id": number} for part in self.parts())
        return {"key": Field((), "str")} | {name: field for fields in parts for name, field in fields.items()}


class EncodedExamples(Examples):
    """Random access to examples in files. A subclass finds the bytes; here they are decoded.

    It pickles, and threads may read at the same time: no file stays open between two reads.
    """

    def __init__(self, source: EncodedSource):
        self.source = source
        self._names = tuple(source.fields())

    def key(self, index: int) -> str:
        """What an example is called: a name that stays when others are added."""
        raise TypeError(f"{type(self).__name__} does not name its examples")

    def content(self, index: int, part: str) -> bytes:
        """The bytes of one part of an example. Raises BadSample where they cannot be read."""
        raise TypeError(f"{type(self).__name__} does not read its examples")

    def place(self, index: int, part: str) -> str:
        """Where these bytes lie, in words."""
        raise TypeError(f"{type(self).__name__} does not say where its examples lie")

    def metadata(self, index: int) -> Mapping[str, Any]:
        """What else is kept of an example, by the name of its column."""
        return {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._example(index, None)

    def draw(self, index: int, key: int) -> dict[str, Any]:
        """An example as training reads it: what is random in it (a crop) follows from ``key`` of 64 bits."""
        return self._example(index, key)

    def gather(
        self, indices: np.ndarray, keys: np.ndarray | None = None, instead: Instead | None = None
    ) -> dict[str, Any]:
        """As of other examples; each picture is decoded into its place in the batch, as a copy of all takes long."""
        shape = (len(indices), self.source.image_size, self.source.image_size, 3)
        pictures = np.empty(shape, np.uint8) if "image" in self._names else None

        def read(row: int, index: int) -> dict[str, Any]:
            key, into = None if keys is None else int(keys[row]), None if pictures is None else pictures[row]
            return self._example(index, key, into)

        rows = tried(read, indices, instead)
        return {name: pictures if name == "image" else stack([row[name] for row in rows]) for name in self._names}

    def _example(self, index: int, key: int | None, into: np.ndarray | None = None) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        return self.decoded(index, self.contents(index), key, into)

    def contents(self, index: int) -> dict[str, bytes]:
        """The bytes of every part of an example."""
        return {part: self.content(index, part) for part in self.source.parts()}

    def check(self, index: int, contents: Mapping[str, bytes]) -> None:
        """Raises BadSample where text or label cannot be read; the picture is not looked at."""
        for part in contents.keys() - {"image"}:
            self._value(part, index, contents)

    def decoded(
        self, index: int, contents: Mapping[str, bytes], key: int | None = None, into: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The example ``index`` of the bytes of its parts; ``into``: its picture's memory. Raises BadSample."""
        return {name: self._value(name, index, contents, key, into) for name in self._names}

    def column(self, name: str) -> Any:
        """One field or one column of the metadata, of every example, read without the rest.

        What is not known of an example stands as "", -1 (a label, an id) or NaN (a number of the metadata), so that
        one bad caption stops no pass over all; a picture that cannot be decoded raises BadSample.
        """
        rows = range(len(self))
        if name == "image":
            return np.array([self.field(index, name) for index in rows])
        if name in self._names:
            unknown = "" if self.source.fields()[name].dtype == "str" else np.int32(-1)
            values = [_or(unknown, self.field, index, name) for index in rows]
            return values if unknown == "" else np.array(values)
        metadata = [_or({}, self.metadata, index) for index in rows]
        if not any(name in row for row in metadata):
            raise UsageError(f"the examples have no column '{name}'; {hint(name, {*self._names, *metadata[0]})}")
        return known([row.get(name) for row in metadata])

    def field(self, index: int, name: str) -> Any:
        """One field of an example, read without the rest. Raises BadSample."""
        if name == "key":
            return self.key(index)
        part = name.removesuffix("_id")  # captions are read without their pictures
        return self._value(name, index, {part: self.content(index, part)})

    def _value(
        self,
        name: str,
        index: int,
        contents: Mapping[str, bytes],
        key: int | None = None,
        into: np.ndarray | None = None,
    ) -> Any:
        if name == "key":
            return self.key(index)
        part, size = name.removesuffix("_id"), self.source.image_size
        content = contents[part]
        try:
            match name:
                case "image":
                    return image(content, size, size, self.source.crop, key, into)
                case "image_id":
                    return values.content_id(content)
                case "label":
                    return values.decode_label(content, self.source.classes)
                case "mask":
                    return label_map(content, size, size, self.source.crop, key)
            return values.decode_text(content) if name == part else values.text_id(content)
        except ValueError as error:
            raise BadSample(self.place(index, part), str(error)) from error


def _or(instead: Any, read: Callable[..., Any], *args: Any) -> Any:
    try:
        return read(*args)
    except BadSample:
        return instead


def known(values: list[Any]) -> Any:
    """A column of metadata: numbers as float64, NaN where there is none; else strings, "" where there is none."""
    if all(isinstance(value, int | float | None) for value in values):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return ["" if value is None else value if isinstance(value, str) else str(value) for value in values]


def read_file(path: str, place: str) -> bytes:
    """All of a file that holds one part of an example. Raises BadSample where it cannot be read."""
    try:
        return read(path)
    except BadShard as error:
        raise BadSample(place, f"the file cannot be read ({error})") from error
