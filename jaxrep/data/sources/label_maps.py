"""Read images from a folder, and the class of every pixel from images of class numbers in another folder."""

from pathlib import PurePosixPath

from jaxrep.data.images.decode import open_image, upright_size
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedSource
from jaxrep.data.sources.image_folder import ImageFolderExamples, list_images
from jaxrep.data.sources.patterns import local
from jaxrep.errors import BadSample
from jaxrep.spec import spec


@spec
class LabelMaps(EncodedSource):
    """Read the images in a folder and its sub-folders, each with ``mask`` int32 [H,W], cropped and resized alike."""

    path: str
    """The folder of the images, or its URL."""
    masks: str
    """The folder of the maps: that of a/b.jpg is a/b.png, of the same size, with one channel (or a palette) of class
    numbers."""

    def parts(self) -> tuple[str, ...]:
        return "image", "mask"

    def open(self) -> Examples:
        root = local(self.path).rstrip("/")
        return LabelMapExamples(self, root, list_images(root))


class LabelMapExamples(ImageFolderExamples):
    """Read the images ``names`` below ``root``, with their maps."""

    def __init__(self, source: LabelMaps, root: str, names: list[str]):
        super().__init__(source, root, names)
        self._masks = local(source.masks).rstrip("/")

    def contents(self, index: int, only: str = "") -> dict[str, bytes]:
        """Read image and map. Raises BadSample, also if they differ in size."""
        contents = super().contents(index, only)
        sizes = {part: self._size(index, part, content) for part, content in contents.items()}
        if len(set(sizes.values())) > 1:
            what = f"the map has {sizes['mask']} pixels, and its image {sizes['image']}"
            raise BadSample(self.place(index, "mask"), what)
        return contents

    def _size(self, index: int, part: str, content: bytes) -> str:
        with self.explain_errors(index, part):
            return "{} x {}".format(*open_image(content, upright_size))

    def file(self, index: int, part: str) -> tuple[str, str]:
        folder, name = super().file(index, part)
        return (self._masks, str(PurePosixPath(name).with_suffix(".png"))) if part == "mask" else (folder, name)
