"""Claim, recognize and write a run directory; ``layout`` names its files.

The same command in the same directory resumes the run; a recipe of another identity is refused. The directory may lie
behind a URL (``remote``).
"""

import contextlib
import dataclasses
import errno
import fcntl
import itertools
import logging
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxrep import hosts
from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.disk_cache import explain_os_errors, no_follow, write_atomically
from jaxrep.errors import UsageError, without_secrets
from jaxrep.experiment import LoadedExperiment, from_run, recipe_json
from jaxrep.metrics import sample
from jaxrep.recipe import Checkpointing, Recipe
from jaxrep.runs import layout, provenance
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.environment import environment
from jaxrep.runs.layout import read_json, read_results, write_json
from jaxrep.runs.remote import RemoteMirror, url_of
from jaxrep.spec import difference, render_difference
from jaxrep.spec_json import fingerprint, redacted
from jaxrep.storage import is_remote
from jaxrep.trust import record

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunDir:
    """Hold the directory of a run."""

    path: Path
    spool: RemoteMirror | None = None
    """The mirror of a run behind a URL; ``path`` is its folder."""
    _held: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack, repr=False, compare=False)

    @classmethod
    def at(cls, place: str | Path) -> "RunDir":
        """Open the run to train in a directory or behind a URL, until ``close``.

        Raises:
            UsageError: there is no such store, or this machine trains there already.
            JaxrepError: the run cannot be read.
        """
        if not is_remote(str(place)):
            return cls(Path(place))
        spool = RemoteMirror.of_training(str(place))
        with contextlib.ExitStack() as stack:
            with explain_os_errors(spool.folder):
                spool.folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_file(spool.folder.with_suffix(".lock"), place=spool.url))
            spool.fetch()
            stack.callback(spool.close)
            return cls(spool.folder, spool, stack.pop_all())

    def __str__(self) -> str:
        return without_secrets(url_of(self.path))

    def close(self) -> None:
        """Release the directory; for a run behind a URL, upload the rest."""
        self._held.close()

    def exists(self) -> bool:
        """Return whether a run was started here."""
        return (self.path / layout.RECIPE).exists()

    def recipe(self) -> Recipe:
        """Return the recipe of the run."""
        return from_run(self.path).recipe

    def has_checkpoint(self) -> bool:
        """Return whether the run has a complete checkpoint."""
        with contextlib.closing(Checkpoints(self.path, Checkpointing(), self.spool)) as checkpoints:
            return checkpoints.latest() is not None

    def results(self) -> dict[str, float] | None:
        """Return the final metrics, or None while the run is unfinished."""
        path = self.path / layout.RESULTS
        return read_results(path) if path.exists() else None

    def keep_results(self, results: dict[str, float], eval_data: Mapping[str, Any]) -> None:
        """Write the final metrics' values per example and data, then the metrics, which mark the end of the run."""
        write_json(self.path / layout.EVAL_DATA, eval_data)
        sample.save(self.path / layout.SAMPLES, results)
        write_json(self.path / layout.RESULTS, results)

    def origins(self, recipe: Recipe) -> dict[str, str]:
        """Return the addresses on a hub that the run starts from, each with its commit; a run keeps its commits.

        Raises:
            UsageError: an address names nothing, or the file of a run is damaged.
            JaxrepError: the hub cannot be reached.
        """
        if not (path := self.path / layout.ORIGINS).exists():
            return provenance.origins(recipe)
        known = sorted({*provenance.addresses(recipe).values()})
        return layout.read_fields(path, known, **dict.fromkeys(known, str))

    def set_aside_unstarted(self, recipe: Recipe, experiment: LoadedExperiment | None) -> None:
        """Move what a command of another recipe left here, if it trained nothing, into a folder of the run directory.

        So a set-up that failed does not block the corrected command. A run behind a URL is left as it is.

        Raises:
            UsageError: another process holds the directory, it cannot be written, or its recipe cannot be read.
        """
        if self.spool or not hosts.is_main() or not self._holds_unstarted_other(recipe):
            return
        with self._explain_os_errors(), lock_file(self.path / layout.LOCK):
            if not self._holds_unstarted_other(recipe):  # it trained, or another command was faster
                return
            places = (self.path / layout.UNSTARTED / str(number) for number in itertools.count(1))
            aside = next(place for place in places if not place.exists())
            aside.mkdir(parents=True)
            for file in self._files_of_start(experiment):
                os.replace(file, aside / file.name)
        LOG.info("%s held another recipe, of a command that trained nothing: its files are now in %s", self, aside)

    def _holds_unstarted_other(self, recipe: Recipe) -> bool:
        """Return whether here is another recipe, and nothing that training, evaluation or export wrote."""
        if not self.exists():
            return False
        written = (layout.RESULTS, layout.SAMPLES, layout.EVAL_DATA, layout.EXPORTED)
        folders = [self.path / name for name in (layout.CHECKPOINTS, layout.DAMAGED, layout.PROFILE)]
        metrics = self.path / layout.METRICS
        trained = (
            any(os.path.lexists(self.path / name) for name in written)
            or any(os.path.lexists(each) and (not each.is_dir() or any(each.iterdir())) for each in folders)
            or (metrics.exists() and metrics.stat().st_size > 0)
        )
        return not trained and fingerprint(self.recipe()) != fingerprint(recipe)

    def _files_of_start(self, experiment: LoadedExperiment | None) -> list[Path]:
        """Return the files that the start of a run writes, the recipe last, which says that there is a run."""
        known = self.path / layout.ENVIRONMENT
        copy = self.path / (self._copy_named(known) or layout.ENVIRONMENT)
        source = experiment.path if experiment else None
        own = source and source.exists() and copy.exists() and copy.samefile(source)  # the user's file, in use
        names = (layout.TOKENIZER, layout.ORIGINS, layout.METRICS, layout.TENSORBOARD, layout.WANDB_ID)
        files = [self.path / name for name in names] + sorted(self.path.glob("bad_samples*.json"))
        files += [] if own or copy == known else [copy]
        return [file for file in (*files, known, self.path / layout.RECIPE) if file.exists()]

    def claim(self, recipe: Recipe, experiment: LoadedExperiment | None, origins: Mapping[str, str] = {}) -> None:
        """Claim the directory for a recipe, until ``close``: start a run, or resume one of the same identity.

        ``origins``: what ``self.origins`` returned; a new run keeps them.

        Raises:
            UsageError: it holds a run of another identity, another process trains in it, or it cannot be written.
        """
        with self._explain_os_errors():
            self.path.mkdir(parents=True, exist_ok=True)
            if hosts.is_main():  # the processes of one run share its directory
                self._held.enter_context(lock_file(self.path / layout.LOCK))
            if experiment and experiment.path.is_file() and (reason := record(experiment.path)):
                LOG.warning("later commands on this run will ask for --trust, as it cannot be recorded: %s", reason)
            self.check(recipe)
            if not hosts.is_main():
                return
            copy = self._keep(experiment.path) if experiment and experiment.path.is_file() else None
            write_json(self.path / layout.ENVIRONMENT, {**environment(), "experiment": copy})
            if origins:
                write_json(self.path / layout.ORIGINS, dict(origins))
            write_json(self.path / layout.RECIPE, recipe_json(recipe))
            if self.spool:  # a store that refuses it is known before the first step
                self.spool.push()
                self.spool.uploaded()

    @contextlib.contextmanager
    def _explain_os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"the run directory {self} cannot be written: {error.strerror or error}; choose another by --run-dir"
            ) from error

    def _keep(self, experiment: Path) -> str:
        """Copy the experiment file, in place of an earlier copy; return the copy's name."""
        copy, known = self.path / experiment.name, self.path / layout.ENVIRONMENT
        before = self._copy_named(known) or copy.name
        if (self.path / before).exists():
            os.replace(self.path / before, copy)  # there are never two
        if not (copy.exists() and copy.samefile(experiment)):
            write_atomically(copy, lambda file: file.write(experiment.read_bytes()))
        return copy.name

    def _copy_named(self, known: Path) -> str | None:
        """Return the name of the copy of the experiment file that an environment states. Raises UsageError."""
        name = (layout.read_environment(known).get("experiment") if known.exists() else None) or None
        if name is not None and (not isinstance(name, str) or Path(name).name != name):
            raise UsageError(f"{known} is damaged: experiment is {name!r}, expected the name of a file in {self}")
        return name

    def check(self, recipe: Recipe) -> None:
        """Check that the directory holds no run, or one of the recipe. Raises UsageError."""
        if not self.exists():
            return
        before = self.recipe()
        changes = difference(before, recipe)
        if fingerprint(before) != fingerprint(recipe):
            raise UsageError(
                f"{self} holds a run of another recipe:\n{render_difference(changes)}\n"
                "choose another directory by --run-dir, or remove that one to start anew"
            )
        if changes:
            LOG.info("resuming with other execution fields:\n%s", render_difference(changes))

    def write_bad_samples(self, report: BadSampleReport, of_all: bool = False) -> None:
        """Write the bad-sample report of this process, or that ``of_all`` processes."""
        host = "" if of_all or jax.process_count() == 1 else f"-{jax.process_index()}"
        write_json(self.path / f"bad_samples{host}.json", redacted(report.to_json()))

    def tokenizer(
        self,
        recipe: Recipe,
        texts: Callable[[], Iterable[str]],
        inherited: Callable[[], LoadedTokenizer | None] = lambda: None,
    ) -> LoadedTokenizer:
        """Return the run's tokenizer; its vocabulary is the one that the run keeps, or inherited, learned or read."""
        path = self.path / layout.TOKENIZER
        if path.exists():
            try:
                return recipe.data.tokenizer.restore(read_json(path))
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                kind = type(recipe.data.tokenizer).__name__
                raise UsageError(f"{path} is damaged: it is no vocabulary of a {kind} tokenizer ({error!r})") from error
        return inherited() or recipe.data.tokenizer.load(texts())

    def keep_tokenizer(self, tokenizer: LoadedTokenizer) -> None:
        """Write the vocabulary of a run that has none yet."""
        path = self.path / layout.TOKENIZER
        if hosts.is_main() and not path.exists():
            write_json(path, tokenizer.state)


@contextlib.contextmanager
def lock_file(path: Path, option: str = "--run-dir", place: str = "") -> Iterator[None]:
    """Hold a file locked; the lock ends with the process, however the process ends.

    Args:
        path: the file.
        option: the command-line option that names another directory, for the message.
        place: what the file locks; by default its folder.

    Raises:
        UsageError: another process holds the lock. A file system without locks lets every process in.
    """
    with open(path, "a+", opener=no_follow) as file:
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
