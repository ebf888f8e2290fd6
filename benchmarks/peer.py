"""Load open_clip's losses and models, the peer of the benchmarks (``pip install --no-deps open_clip_torch``).

Its package imports torchvision, for transforms of pictures and for ResNets, and transformers, for towers from the hub.
The benchmarks do not need them, and there is no torchvision for a torch without CUDA. So single modules are loaded
without the package's ``__init__``.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def open_clip(module: str) -> Any:
    """Return a module of the installed open_clip, or None (and say so on standard error) if it is not installed."""
    missing = [name for name in ("torch", "open_clip") if not importlib.util.find_spec(name)]
    if missing:
        print(f"{', '.join(missing)} not installed: open_clip is left out of this run", file=sys.stderr)
        return None
    return importlib.import_module(f"{_package()}.{module}")


def _package() -> str:
    """Return the name of a package with open_clip's files, of which none is imported yet."""
    name = "open_clip_files"
    if name not in sys.modules:
        import torch

        installed: Any = importlib.util.find_spec("open_clip")
        package: Any = ModuleType(name)
        package.__path__ = list(installed.submodule_search_locations)
        norms: Any = ModuleType("torchvision.ops.misc")
        norms.FrozenBatchNorm2d = torch.nn.Module  # what freezing a ResNet makes
        absent: Any = None
        sys.modules |= {name: package, norms.__name__: norms, "transformers": absent}
    return name
