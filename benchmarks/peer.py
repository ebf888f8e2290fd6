"""The peer of the benchmarks: open_clip's own losses and models (``pip install --no-deps open_clip_torch``).

Its package imports torchvision, for transforms of pictures and for ResNets, and transformers, for towers from the hub.
Nothing here needs them, and of torchvision there is no build for a torch without CUDA. So single modules are loaded,
without the package's ``__init__``.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def open_clip(module: str) -> Any:
    """A module of the installed open_clip, or None where it is not installed (said on standard error)."""
    missing = [name for name in ("torch", "open_clip") if not importlib.util.find_spec(name)]
    if missing:
        print(f"{', '.join(missing)} not installed: open_clip is left out of this run", file=sys.stderr)
        return None
    return importlib.import_module(f"{_package()}.{module}")


def _package() -> str:
    """The name of a package with open_clip's files and nothing imported."""
    name = "open_clip_files"
    if name not in sys.modules:
        import torch

        found: Any = importlib.util.find_spec("open_clip")
        package: Any = ModuleType(name)
        package.__path__ = list(found.submodule_search_locations)
        norms: Any = ModuleType("torchvision.ops.misc")
        norms.FrozenBatchNorm2d = torch.nn.Module  # what freezing a ResNet makes
        absent: Any = None
        sys.modules |= {name: package, norms.__name__: norms, "transformers": absent}
    return name
