"""Terms that compare predicted patches with those of a field of the batch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.losses.pixels import normalize_patches, patch_errors
from jaxrep.objectives.base import Output, Reads, SeparableTerm
from jaxrep.patches import Patch, patch_grid, patch_sides, patchify, take_places
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
        x = x if x.ndim == 3 else x[:, None]
        index = batch[f"{self.target}/masked_index"] if self.over == "hidden" else None
        self._check(x, patches, index)
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

    def _check(self, x: Array, patches: Array, index: Array | None) -> None:
        """Check that predictions are those of the field's patches. Raises ValueError."""
        if x.shape[2] != patches.shape[2]:
            raise ValueError(
                f"Reconstruction: '{self.x}' predicts {x.shape[2]} numbers a patch, and a patch of '{self.target}' has "
                f"{patches.shape[2]}: change the width of the prediction, or the patch"
            )
        places = {patches.shape[1]} | (set() if index is None else {index.shape[1]})
        if x.shape[1] not in places:
            raise ValueError(
                f"Reconstruction: '{self.x}' predicts {x.shape[1]} patches of '{self.target}', which has "
                f"{patches.shape[1]}: give the mask, the encoder and the term the same patch"
            )
