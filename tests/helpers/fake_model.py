"""A model whose embeddings are given: the picture's first pixel and the text itself say which."""

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

    def preprocess(self, picture, name="image"):
        return picture

    def encode_block(self, own, rows, want, *, normalize):
        ((name, pictures),) = own.items()
        return {
            each: self.encode_image(pictures, output=each if each != name else "", normalize=normalize) for each in want
        }

    def encode_image(self, pictures, name="image", *, output="", normalize=True):
        table = self.tables[output] if output else self.images
        found = np.stack([table[int(picture[0, 0, 0])] for picture in pictures])
        return found / np.linalg.norm(found, axis=-1, keepdims=True) if normalize else found

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
    """Examples of the fields ``names`` from a table that tests fill."""

    names: tuple[str, ...]
    key: str
    classes: int | None = None

    def fields(self):
        texts = {name for name in self.names if isinstance(TABLES[self.key].column(name), list)}
        return {name: Field((), "str" if name in texts else "int32", self.classes) for name in self.names}

    def open(self):
        return TABLES[self.key]


TABLES = {}


def given(classes=None, **columns):
    key = str(len(TABLES))
    TABLES[key] = Columns(columns, classes)
    return Given(names=tuple(columns), key=key)
