"""jaxrep: large-scale contrastive pretraining of representations in JAX and Flax."""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxrep.model import Model

__version__ = "0.1.0"


def load(path: str | PathLike[str]) -> "Model":
    """The model of a folder: of a public checkpoint (``docs/checkpoints.md``), or of a run, of its latest checkpoint,
    with the weights that its evaluations use. A run may lie behind a URL (``gs://bucket/run``).

    Raises UsageError: neither is there, the run has no checkpoint, or the files are not of one another.
    """
    # Here, so that the program's help need not import JAX.
    from jaxrep.pretrained.load import is_checkpoint, load_checkpoint
    from jaxrep.runs.remote import fetch_run
    from jaxrep.runs.restore import load_run

    folder = fetch_run(path)
    return load_checkpoint(folder) if is_checkpoint(folder) else load_run(folder)[0]
