"""Kernels of attention on devices that are not here: TPU kernels run in Pallas's interpreter, cuDNN's is lowered."""

import importlib
from typing import Any

import pytest

from jaxrep.encoders import attention


def as_if_on_tpu(patch: pytest.MonkeyPatch) -> None:
    """Choose kernels as on a TPU; they run in the interpreter."""
    patch.setattr(attention, "platform", lambda: "tpu")


def as_if_cudnn(patch: pytest.MonkeyPatch) -> None:
    """Let JAX find cuDNN, of which it asks version and capability before it lowers attention to it."""
    cudnn: Any = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    patch.setattr(cudnn, "check_cudnn_version", lambda: 91100)
    patch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    patch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
