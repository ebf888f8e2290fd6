"""Pictures in a folder with the class of every pixel, as pictures of class numbers in another one."""

from pathlib import PurePosixPath

from jaxrep.data.images.image import opened
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedSource, read_file
from jaxrep.data.sources.files import ImageFolderExamples, pictures
from jaxrep.data.sources.patterns import local
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import spec


@spec
class LabelMaps(EncodedSource):
    """The pictures in a folder and below it, each with ``mask`` int32 [H,W], cut out and resized as the picture is."""

    path: str
    """The folder of the pictures, or its URL."""
    masks: str
    """The folder of the maps: that of a/b.jpg is a/b.png, as large, of one channel (or a palette) of class numbers."""

    def parts(self) -> tuple[str, ...]:
        return "image", "mask"

    def open(self) -> Examples:
        root = local(self.path).rstrip("/")
        if not (names := pictures(root)):
            raise UsageError(f"{root} holds no picture")
        return LabelMapExamples(self, root, names)


class LabelMapExamples(ImageFolderExamples):
    """The pictures ``names`` below ``root``, with their maps."""

    def __init__(self, source: LabelMaps, root: str, names: list[str]):
        super().__init__(source, root, names, [])
        self._masks = local(source.masks).rstrip("/")

    def contents(self, index: int) -> dict[str, bytes]:
        """Raises BadSample: also where the map is not as large as the picture, and would not lie upon it."""
        contents = super().contents(index)
        sizes = [self._size(index, part, content) for part, content in contents.items()]
        if sizes[0] != sizes[1]:
            of_picture, of_map = (f"{width} x {height}" for width, height in sizes)
            raise BadSample(self.place(index, "mask"), f"the map has {of_map} pixels, and its picture {of_picture}")
        return contents

    def _size(self, index: int, part: str, content: bytes) -> tuple[int, int]:
        try:
            return opened(content, lambda picture: picture.size)
        except ValueError as error:
            raise BadSample(self.place(index, part), str(error)) from error

    def content(self, index: int, part: str) -> bytes:
        place = self.place(index, part)
        return read_file(place, place)

    def place(self, index: int, part: str) -> str:
        if part == "mask":
            return f"{self._masks}/{PurePosixPath(self.key(index)).with_suffix('.png')}"
        return super().place(index, part)
