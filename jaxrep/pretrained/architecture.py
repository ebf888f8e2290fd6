"""The architecture that a checkpoint folder describes: specs, input fields, and the mapping table of its tensors."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxrep.batch import Field
from jaxrep.data.tokenizers.base import Tokenizer
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.errors import UsageError
from jaxrep.methods.base import Method
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Head, Identity, LogitBias, LogitScale, NoBias
from jaxrep.methods.single_encoder import SingleEncoder
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.image_transform import ImageTransform
from jaxrep.pretrained.mapping import Table, WeightMap, under
from jaxrep.pretrained.tensors import Tensors
from jaxrep.pretrained.tokenizers import find_tokenizer


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Describe a model: its method, inputs and tensors."""

    model: Method
    fields: Mapping[str, Field]  # inputs
    table: Table
    ignored: tuple[str, ...] = ()  # patterns of tensors that may be present and are not read
    transform: ImageTransform | None = None
    tokenizer: Tokenizer | None = None


@dataclasses.dataclass(frozen=True)
class Tower:
    """Describe one encoder and its head; the tables have no prefixes."""

    encoder: Encoder
    field: Field
    table: Table
    head: Head = Identity()
    projection: Table = ()
    transform: ImageTransform | None = None
    tokenizer: Tokenizer | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Hold a folder with its config and the headers of its tensors."""

    folder: Path
    config: Config
    tensors: Tensors
    transform: ImageTransform | None  # as the folder states it

    def prefix(self, *candidates: str) -> str:
        """Return the first candidate with which the name of a tensor starts, or an empty string."""
        names = self.tensors.entries
        return next((prefix for prefix in candidates if any(name.startswith(prefix) for name in names)), "")

    def has(self, name: str) -> bool:
        return name in self.tensors.entries

    def square_transform(self, side: int, default: PixelNorm, shorter: int = 0) -> ImageTransform:
        """Return the folder's transform to squares of ``side`` pixels, or the default of the family.

        Raises:
            UsageError: the folder's transform has another size.
        """
        transform = self.transform or ImageTransform(height=side, width=side, shorter=shorter, pixels=default)
        if (transform.height, transform.width) != (side, side):
            raise UsageError(
                f"the image processor in {self.folder} makes images of {transform.height} x {transform.width} pixels, "
                f"and {self.config.file} asks for {side} x {side}"
            )
        return transform


def vit_tower(transform: ImageTransform, table: Table, patch: int, *, stem_bias: bool = True, **fields: Any) -> Tower:
    """Return an image tower whose encoder is a ViT with the given fields."""
    encoder = ViT(**fields, stem=PatchStem(patch=patch, bias=stem_bias), pixels=transform.pixels)
    return Tower(encoder, transform.field, table, transform=transform)


def text_tower(
    source: Source,
    config: Config,
    table: Table,
    *,
    length: str = "max_position_embeddings",
    find: Callable[[Path, Field], Tokenizer | None] = find_tokenizer,
    **fields: Any,
) -> Tower:
    """Return a text tower whose encoder is a TextTransformer; ``length`` is the config's name of the text length."""
    field = Field((config.whole(length),), "int32", config.whole("vocab_size"))
    return Tower(TextTransformer(**fields), field, table, tokenizer=find(source.folder, field))


def single(name: str, tower: Tower, prefix: str = "", ignored: tuple[str, ...] = ()) -> Architecture:
    """Return the architecture of one tower that reads ``name``; the encoder's tensors start with ``prefix``."""
    return Architecture(
        model=SingleEncoder(name=name, encoder=tower.encoder, head=tower.head),
        fields={name: tower.field},
        table=(*under(tower.table, prefix, f"{name}/"), *under(tower.projection, "", f"{name}_head/")),
        ignored=ignored,
        transform=tower.transform,
        tokenizer=tower.tokenizer,
    )


def dual(
    source: Source,
    image: Tower,
    text: Tower,
    prefixes: tuple[str, str],
    dim: int,
    scale: LogitScale,
    ignored: tuple[str, ...] = (),
) -> Architecture:
    """Return the architecture of an image and a text tower, a scale, and a bias if the checkpoint has one."""
    parts = single("image", image, prefixes[0]), single("text", text, prefixes[1])
    scalar = source.tensors.entries.get("logit_scale")
    axes = "1 ->" if scalar and scalar.shape == (1,) else ""
    scalars = WeightMap("logit_scale", "scale/log", axes), WeightMap("logit_bias", "bias/value", axes)
    return Architecture(
        model=DualEncoder(
            towers={"image": image.encoder, "text": text.encoder},
            dim=dim,
            heads={"image": image.head, "text": text.head},
            scale=scale,
            bias=LogitBias() if source.has("logit_bias") else NoBias(),
        ),
        fields={"image": image.field, "text": text.field},
        table=(*parts[0].table, *parts[1].table, *scalars),
        ignored=ignored,
        transform=image.transform,
        tokenizer=text.tokenizer,
    )
