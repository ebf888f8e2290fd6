"""A run directory: what a run leaves behind and how it is recognized.

``recipe.json``, the experiment file, ``environment.json``, ``tokenizer.json`` (the vocabulary), ``metrics.jsonl``,
``data_ledger.json`` (what could not be read), ``results.json`` and the values an example that it sums up
(``samples.npz``), ``checkpoints/``, ``tensorboard/``. The same command in
the same directory goes on; another identity is refused. It may lie behind a URL (``remote``).
"""

import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax

from jaxrep import hosts
from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.disk_cache import explain_os_errors
from jaxrep.errors import UsageError
from jaxrep.experiment import LoadedExperiment, from_run, recipe_json
from jaxrep.metrics import sample
from jaxrep.recipe import Checkpointing, Recipe
from jaxrep.runs import layout
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.environment import environment
from jaxrep.runs.layout import read_json, write_json
from jaxrep.runs.remote import RemoteMirror, url_of
from jaxrep.spec import difference, render_difference
from jaxrep.spec_json import fingerprint
from jaxrep.storage import remote

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunDir:
    """A directory that holds, or will hold, a run."""

    path: Path
    spool: RemoteMirror | None = None
    """Of a run behind a URL; ``path`` is its folder."""
    _held: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack, repr=False, compare=False)

    @classmethod
    def at(cls, place: str | Path) -> "RunDir":
        """The run to train in a directory or behind a URL, until ``close``.

        Raises UsageError: there is no such store, or this machine trains there already. JaxrepError: it cannot be read.
        """
        if not remote(str(place)):
            return cls(Path(place))
        spool = RemoteMirror.of_training(str(place))
        with contextlib.ExitStack() as stack:
            explain_os_errors(spool.folder, lambda: spool.folder.parent.mkdir(parents=True, exist_ok=True))
            stack.enter_context(lock_file(spool.folder.with_suffix(".lock"), place=spool.url))
            spool.fetch()
            stack.callback(spool.close)
            return cls(spool.folder, spool, stack.pop_all())

    def __str__(self) -> str:
        return url_of(self.path)

    def close(self) -> None:
        """Leaves the directory to others, if it was claimed; uploads what is left, if it lies behind a URL."""
        self._held.close()

    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / layout.RECIPE).exists()

    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return from_run(self.path).recipe

    def has_checkpoint(self) -> bool:
        """Return whether the run has a complete checkpoint."""
        with contextlib.closing(Checkpoints(self.path, Checkpointing(), self.spool)) as checkpoints:
            return checkpoints.latest() is not None

    def results(self) -> dict[str, float] | None:
        """Final metrics, or None where the run is not at its end."""
        path = self.path / layout.RESULTS
        return read_json(path) if path.exists() else None

    def keep_results(self, results: dict[str, float]) -> None:
        """Writes the final metrics, which mark the end of the run, and before them their values an example."""
        sample.save(self.path / layout.SAMPLES, results)
        write_json(self.path / layout.RESULTS, results)

    def claim(self, recipe: Recipe, experiment: LoadedExperiment | None) -> None:
        """Makes the directory this recipe's, until ``close``: a new run, or one of the same identity that goes on.

        Raises UsageError: it holds a run of another identity, another process trains in it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if hosts.is_main():  # the processes of one run share its directory
                self._held.enter_context(lock_file(self.path / layout.LOCK))
            if self.exists():
                self._recognize(recipe)
            if not hosts.is_main():
                return
            copy = self._keep(experiment.path) if experiment and experiment.path.is_file() else None
            write_json(self.path / layout.ENVIRONMENT, {**environment(), "experiment": copy})
            write_json(self.path / layout.RECIPE, recipe_json(recipe))
            if self.spool:  # a store that refuses it is known before the first step
                self.spool.push()
                self.spool.uploaded()
        except OSError as error:
            raise UsageError(
                f"the run directory {self} cannot be written: {error.strerror or error}; choose another by --run-dir"
            ) from error

    def _keep(self, experiment: Path) -> str:
        """Copies the experiment, in place of an earlier copy that had another name. Returns the copy's name."""
        copy, known = self.path / experiment.name, self.path / layout.ENVIRONMENT
        before = (read_json(known).get("experiment") if known.exists() else None) or copy.name
        if (self.path / before).exists():
            os.replace(self.path / before, copy)  # there are never two
        if not (copy.exists() and copy.samefile(experiment)):
            shutil.copyfile(experiment, copy)
        return copy.name

    def _recognize(self, recipe: Recipe) -> None:
        before = self.recipe()
        changes = difference(before, recipe)
        if fingerprint(before) != fingerprint(recipe):
            raise UsageError(
                f"{self} holds a run of another recipe:\n{render_difference(changes)}\n"
                "choose another directory by --run-dir, or remove that one to start anew"
            )
        if changes:
            LOG.info("resuming with other execution fields:\n%s", render_difference(changes))

    def keep_ledger(self, ledger: BadSampleReport, of_all: bool = False) -> None:
        """Writes what could not be read so far: in a file of this process, or in that ``of_all`` of them."""
        host = "" if of_all or jax.process_count() == 1 else f"-{jax.process_index()}"
        write_json(self.path / f"data_ledger{host}.json", ledger.to_json())

    def tokenizer(
        self,
        recipe: Recipe,
        texts: Callable[[], Iterable[str]],
        inherited: Callable[[], LoadedTokenizer | None] = lambda: None,
    ) -> LoadedTokenizer:
        """The run's tokenizer; its vocabulary is inherited, or learned of texts or read, once, and kept."""
        path = self.path / layout.TOKENIZER
        if path.exists():
            return recipe.data.tokenizer.restore(read_json(path))
        loaded = inherited() or recipe.data.tokenizer.load(texts())
        if hosts.is_main():
            write_json(path, loaded.state)
        return loaded


@contextlib.contextmanager
def lock_file(path: Path, option: str = "--run-dir", place: str = "") -> Iterator[None]:
    """Holds a file as the only process that does; a process that ends, in whatever way, holds it no longer. ``place``:
    what it stands for, by default its folder.

    Raises UsageError where another one has it. A file system without locks lets everybody in.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UsageError(
                f"{place or path.parent} is in use by {file.read().strip()}: wait for its end, or choose another "
                f"directory by {option}"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
