"""Load the exports of a package when they are first used, as its stub ``__init__.pyi`` lists them."""

from collections.abc import Callable
from typing import Any

import lazy_loader

from jaxrep.errors import hint


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package; an unknown name gives the nearest one."""
    load, names, exports = lazy_loader.attach_stub(package, file)

    def get(name: str) -> Any:
        try:
            return load(name)
        except AttributeError as error:
            if name in exports or name.startswith("_"):
                raise
            raise AttributeError(f"{package} has no {name!r}; {hint(name, exports)}") from error

    return get, names, exports
