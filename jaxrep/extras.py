"""Import packages that come with an extra of jaxrep."""

import importlib
from typing import Any

from jaxrep.errors import UsageError


def import_extra(module: str, extra: str) -> Any:
    """Import a module. Raises UsageError: it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(f"this needs {package}, which is not installed: pip install 'jaxrep[{extra}]'") from error
