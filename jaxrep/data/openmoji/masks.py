"""Compose scenes of several emojis with the class of every pixel."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.openmoji.emoji import ATTRIBUTION, CLASSES
from jaxrep.data.openmoji.scenes import OpenMojiScenes, Scenes
from jaxrep.data.source import Examples, Source
from jaxrep.spec import spec


@spec
class OpenMojiMasks(Source):
    """Compose ``image``, and ``mask`` int32 [H,W]: 0 is the background, k + 1 is an emoji of group k."""

    attribution: ClassVar[str] = ATTRIBUTION

    scenes: OpenMojiScenes = OpenMojiScenes()
    """The scenes."""

    def fields(self) -> dict[str, Field]:
        image = self.scenes.fields()["image"]
        return {"image": image, "mask": Field(image.shape[:2], "int32", CLASSES["group"] + 1)}

    def open(self) -> Examples:
        return MaskedScenes(self.scenes.open())


class MaskedScenes(Examples):
    """Compose scenes with the groups of their emojis."""

    def __init__(self, scenes: Scenes):
        self._scenes, groups = scenes, scenes.emojis.column("group")
        self._classes = np.append(groups + 1, 0).astype(np.int32)  # the last one is for no emoji, -1
        self.classes: dict[str, Sequence[str]] = {"mask": ["background", *scenes.emojis.classes["group"]]}

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, emojis = self._scenes.image_and_emojis(range(len(self))[index])
        return {"image": image, "mask": self._classes[emojis]}
