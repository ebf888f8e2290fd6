"""Name the files of a run directory, and read and write them."""

import json
import os
from pathlib import Path
from typing import Any

from jaxrep.errors import UsageError


def read_json(path: Path) -> Any:
    """What a file of a run says. Raises UsageError where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # no JSON, or no text
        raise UsageError(f"{path} is damaged, not JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
