"""Peers import torchvision, whose wheel may be one for CUDA beside a torch for CPUs. Its operators are then not there:
its import asks for two, and no model here for any. Declared first, they let it be imported."""

import sys

LIBRARIES = []
"""What is declared goes with the object that declared it."""


def torchvision_can_be_imported() -> None:
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        return  # the tests that need it are skipped
    except RuntimeError:
        import torch  # pyright: ignore[reportMissingImports]

        LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            LIBRARIES[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for module in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[module]


torchvision_can_be_imported()
