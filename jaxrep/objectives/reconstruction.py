"""Terms that compare predicted patches with those of a field of the batch."""

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.losses.pixels import hidden_group_errors, normalize_patches, patch_errors
from jaxrep.objectives.base import Columns, Output, Reads, SeparableTerm
from jaxrep.patches import Patch, patch_grid, patch_sides, patchify, take_places
from jaxrep.spec import Count, Natural, Share
from jaxrep.views.base import to_float

Target = Annotated[str, Reads(columns=("{}", "{}/masked_index"))]
"""The name of a field of which a mask hides tokens."""


@dataclass(frozen=True)
class Reconstruction(SeparableTerm):
    """Predict the hidden patches of a field; the mean over the hidden patches of all rows (MAE; SimMIM).

    The prediction is [B,M,P] at the hidden places of the field, ``<target>/masked_index``, or [B,N,P] at all. The
    field is [B,*axes,C]; uint8 counts as its share of 255.
    """

    x: Output
    """Name of the predicted patches."""
    target: Target = "image"
    """Field that they predict."""
    _: KW_ONLY
    patch: Patch
    """Side of a patch along each axis of the field, or one number for all axes; empty: the whole array is one patch,
    and its prediction may be [B,P]."""
    kind: Literal["l2", "l1"] = "l2"
    """Squared differences, or absolute ones; the mean over the numbers of a patch."""
    pixels: PixelNorm | None = None
    """Normalization of each channel of the field; None: the numbers are compared as they are."""
    patch_norm: bool = False
    """Whether each patch of the field is normalized by its own mean and variance (MAE's norm_pix_loss)."""
    over: Literal["hidden", "all"] = "hidden"
    """Which patches count."""

    @property
    def needs(self) -> tuple[str, ...]:
        return super().needs if self.over == "hidden" else (self.target,)

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        patches = self.patches(batch[self.target])
        x = outputs[self.x]
        x = x[:, None] if x.ndim == 2 else x
        index = batch[f"{self.target}/masked_index"] if self.over == "hidden" else None
        self._check(x, patches, index, batch.get(f"{self.target}/masked"))
        if index is None:
            return patch_errors(x, patches, self.kind).mean(axis=1)
        x = x if x.shape[1] == index.shape[1] else take_places(x, index)
        errors = patch_errors(x, take_places(patches, index), self.kind)
        return jnp.where(index >= 0, errors, 0).sum(axis=1) / jnp.maximum((index >= 0).sum(axis=1), 1)

    def example_weights(self, batch: Batch) -> Array:
        weights = super().example_weights(batch) * batch.get(f"{self.target}/present", 1.0)
        if self.over == "all":
            return weights
        return weights * (batch[f"{self.target}/masked_index"] >= 0).sum(axis=1).astype(jnp.float32)

    def patches(self, field: Array) -> Array:
        """Return the normalized patches [B,N,P] of a field, float32."""
        what = f"Reconstruction: '{self.target}'"
        sides = patch_sides(field.shape[1:], self.patch, what)
        patch_grid(field.shape[1:], sides, what)
        patches = patchify(to_float(field) if self.pixels is None else self.pixels(field), sides)
        return normalize_patches(patches) if self.patch_norm else patches

    def _check(self, x: Array, patches: Array, index: Array | None, masked: Array | None) -> None:
        """Check that predictions are those of the field's patches. Raises ValueError."""
        if x.ndim != 3:
            raise ValueError(f"Reconstruction: '{self.x}' has shape {x.shape}, where patches are [B,M,P] or [B,N,P]")
        if x.shape[2] != patches.shape[2]:
            raise ValueError(
                f"Reconstruction: '{self.x}' predicts {x.shape[2]} numbers a patch, and a patch of '{self.target}' has "
                f"{patches.shape[2]}: change the width of the prediction, or the patch"
            )
        tokens = patches.shape[1]
        places = {tokens} | (set() if index is None else {index.shape[1]})
        if x.shape[1] not in places or (index is not None and masked is not None and masked.shape[1] != tokens):
            mask = "" if masked is None else f" and whose mask has {masked.shape[1]} tokens"
            raise ValueError(
                f"Reconstruction: '{self.x}' predicts {x.shape[1]} patches of '{self.target}', which has {tokens}{mask}"
                ": give the mask, the encoder and the term the same patch"
            )


@dataclass(frozen=True)
class MultiScaleReconstruction(SeparableTerm):
    """Predict a picture whose tokens are hidden in part, and larger pictures of the same (Noman et al. 2024, SatMAE++).

    The loss of a row is ``share`` times the mean over hidden tokens of squared differences, each in the token's patch
    and group of channels, plus the rest times the mean over larger pictures of their absolute differences, in all
    pixels. Rows hide equally many tokens. A uint8 pixel counts as its share of 255.
    """

    x: Output = "picture"
    """Name of the predicted picture, [B,H,W,C]; larger ones are ``<x>/2``, ``<x>/4`` and so on, as of Masked."""
    target: Annotated[str, Reads(columns=("{}", "{}/masked"))] = "image"
    """Field that the picture predicts, of which a mask hides tokens."""
    _: KW_ONLY
    larger: Columns = ("image_2x", "image_4x")
    """Fields that the larger pictures predict, each twice as large as the one before."""
    patch: Count
    """Side of a patch in pixels."""
    groups: tuple[tuple[Natural, ...], ...] = ()
    """Channels of the tokens of a place, a group for each, as in BandsStem; empty: one token, of all channels."""
    share: Share = 0.6
    """Share of the hidden tokens of the loss."""
    pixels: PixelNorm | None = None
    """Normalization of each channel of the fields; None: the numbers are compared as they are."""

    def problems(self) -> Iterator[str]:
        if not self.larger:
            yield "larger names no field: take Reconstruction for pictures of one size"

    @property
    def fields(self) -> dict[str, str]:
        """Return the field that each picture predicts, by the name of the picture, the smallest first."""
        larger = {f"{self.x}/{2**doubling}": field for doubling, field in enumerate(self.larger, 1)}
        return {self.x: self.target, **larger}

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.fields)

    def advice(self, field: str) -> str:
        return "the views CopyField and Resize make it" if field in self.larger else ""

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        pixels = {name: self._pixels(outputs[name], name, batch[field], field) for name, field in self.fields.items()}
        x, target = pixels.pop(self.x)
        groups, masked = self.groups or (tuple(range(x.shape[-1])),), batch[f"{self.target}/masked"]
        self._check_tokens(x.shape, groups, masked)
        hidden = hidden_group_errors(x, target, masked, (self.patch, self.patch), groups)
        larger = [jnp.abs(x - target).mean(axis=(1, 2, 3)) for x, target in pixels.values()]
        return self.share * hidden + (1 - self.share) * sum(larger) / len(larger)

    def example_weights(self, batch: Batch) -> Array:
        return super().example_weights(batch) * batch.get(f"{self.target}/present", 1.0)

    def _pixels(self, x: Array, name: str, target: Array, field: str) -> tuple[Array, Array]:
        """Return a predicted picture and its target, float32. Raises ValueError: they differ in shape."""
        if x.shape != target.shape:
            raise ValueError(
                f"MultiScaleReconstruction: '{name}' predicts pictures of shape {x.shape[1:]}, and '{field}' has "
                f"{target.shape[1:]}: resize the field, or change the number of channels or of doublings"
            )
        return x.astype(jnp.float32), to_float(target) if self.pixels is None else self.pixels(target)

    def _check_tokens(self, shape: tuple[int, ...], groups: tuple[tuple[int, ...], ...], masked: Array) -> None:
        """Check that groups are those of the channels, and the mask that of the tokens. Raises ValueError."""
        what = f"MultiScaleReconstruction: '{self.target}'"
        if sorted(band for group in groups for band in group) != list(range(shape[-1])):
            raise ValueError(f"{what} has {shape[-1]} channels, and groups are {groups}: name each channel once")
        tokens = len(groups) * math.prod(patch_grid(shape[1:3], (self.patch, self.patch), what))
        if masked.shape[1] != tokens:
            raise ValueError(
                f"{what} has {tokens} tokens of {len(groups)} groups, and its mask {masked.shape[1]}: give the mask, "
                "the encoder and the term the same patch and groups"
            )
