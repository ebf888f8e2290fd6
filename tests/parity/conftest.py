"""Make torchvision importable if its wheel is for CUDA and torch's for CPUs.

The reference libraries import torchvision. Its operators are missing then; the import needs two, and no model here any.
"""

import sys

LIBRARIES = []
"""A declared operator exists as long as the object that declared it."""


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
