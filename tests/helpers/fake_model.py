"""A model with given embeddings, selected by the first pixel of an image or by the text, and sources in memory."""

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Source
from jaxrep.errors import UsageError
from jaxrep.model import Model
from jaxrep.spec import spec


class FakeModel(Model):
    def __init__(self, images, texts, **tables):
        fields = dict.fromkeys(("image", "photo"), Field((2, 2, 3), "uint8"))
        super().__init__(None, {}, fields | dict.fromkeys(("text", "title"), Field((8,), "int32", 100)))
        self.images, self.texts, self.tables = images, texts, tables

    def towers(self):
        return list(self.fields)

    def preprocess(self, image, name="image"):
        return image

    def encode_block(self, host_arrays, rows, want, *, normalize):
        ((field, images),) = host_arrays.items()
        outputs = {name: name if name != field else "" for name in want}
        return {name: self.encode_image(images, output=output, normalize=normalize) for name, output in outputs.items()}

    def encode_image(self, images, name="image", *, output="", normalize=True):
        table = self.tables[output] if output else self.images
        embeddings = np.stack([table[int(image[0, 0, 0])] for image in images])
        return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True) if normalize else embeddings

    def per_step(self, want):
        if missing := [name for name in want if name not in self.tables]:
            raise UsageError(f"the model does not emit '{missing[0]}'")
        return {name: self.tables[name] for name in want}

    def encode_text(self, texts, name="text"):
        return np.stack([self.texts[text] for text in texts])


def unit(x):
    x = np.asarray(x, np.float64)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def pictures(numbers):
    return np.tile(np.array(numbers, np.uint8)[:, None, None, None], (1, 2, 2, 3))


@spec
class Given(Source):
    """Declare columns in memory. ``key``: of the table in ``TABLES``; ``classes``: number of classes of all columns."""

    names: tuple[str, ...]
    key: str
    classes: int | None = None

    def fields(self):
        return {name: self._field(TABLES[self.key].column(name)) for name in self.names}

    def _field(self, column):
        if isinstance(column, list):
            return Field((len(column[0]),) if column and isinstance(column[0], tuple) else (), "str")
        return Field(column.shape[1:], "int32", self.classes)

    def open(self):
        return TABLES[self.key]


TABLES = {}


def given(class_names=None, *, classes=None, **columns):
    """Return a source of columns: arrays, or lists of texts or of tuples of texts."""
    key = str(len(TABLES))
    TABLES[key] = Columns(columns, class_names)
    return Given(names=tuple(columns), key=key, classes=classes)
