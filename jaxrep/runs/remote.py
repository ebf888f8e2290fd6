"""Keep runs behind a URL: gs://, s3://, or any store to which fsspec writes whole objects.

Object stores cannot append, so the small files of such a run (metrics, event files) are written to a local folder, and
a thread uploads each changed file whole. Orbax writes and reads checkpoints in gs:// in place, each host its own part
of each array. It knows no other store: there one process writes checkpoints locally too, and uploads the commit marker
of a checkpoint after its other files, so that an incomplete one is never used.
"""

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import jax
from etils import epath

from jaxrep import disk_cache, hub
from jaxrep.errors import JaxrepError, UsageError, secret_in
from jaxrep.runs import layout
from jaxrep.storage import CREDENTIALS, filesystem, is_remote, retry

T = TypeVar("T")

WAITS = (1.0, 4.0, 16.0, 60.0)
"""Seconds before what a store refused is tried again."""

MARKER = "_CHECKPOINT_METADATA"
"""The file of a checkpoint that is uploaded last and removed first."""

FOLDERS = (layout.CHECKPOINTS, layout.DAMAGED, layout.PROFILE, layout.TENSORBOARD)
"""Of the folders in a run, those that are uploaded."""

URL = "url"
"""The file of a spool that says whose it is."""

Stamp = tuple[int, ...]


class RemoteMirror:
    """Mirror a run behind a URL in a local folder of one process."""

    def __init__(self, url: str, folder: Path):
        if found := secret_in(url):
            raise UsageError(f"{url} is given with {found}, which would be kept on disk: {CREDENTIALS}")
        self.url, self.folder = url.rstrip("/"), folder
        self._files, self._root = filesystem(self.url)
        self._there: dict[str, Stamp] = {}  # what the store has of this folder, as it was here
        self._thread = ThreadPoolExecutor(1, "upload")
        self.last: Future[None] | None = None
        """The last upload; what one before it left undone, it does."""

    @classmethod
    def of_training(cls, url: str) -> "RemoteMirror":
        """Return the mirror in which this process trains. Raises UsageError: not in that store, or of that name."""
        if jax.process_count() > 1 and not _in_place(url):
            raise UsageError(
                f"--run-dir {url}: checkpoints of several processes are written to gs:// or to a file system that all "
                "of them see, and to no other store"
            )
        if _in_place(url) and (signs := set(url) & set("*?[]")):
            raise UsageError(f"--run-dir {url}: orbax takes {' '.join(sorted(signs))} for a pattern; name it otherwise")
        digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
        return cls(url, disk_cache.cache_dir() / "spools" / f"{digest}-{jax.process_index()}")

    def fetch(self) -> None:
        """Copy the run's files, and the complete checkpoints that orbax cannot read in place. Raises JaxrepError."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with disk_cache.explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / URL).write_text(self.url)
        found = self._tried("reading of", self._list)
        whole = {name.rpartition("/")[0] for name in found if name.endswith(f"/{MARKER}")}
        for name in found:
            top, _, below = name.partition("/")
            if not below or (top == layout.CHECKPOINTS and f"{top}/{below.partition('/')[0]}" in whole):
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._tried("reading of", self._files.get_file, f"{self._root}/{name}", str(path))
                self._there[name] = _stamp(path)

    def push(self) -> None:
        """Ask the thread to upload what changed and to remove what is gone; return at once."""
        self.last = self._thread.submit(self._upload)

    def uploaded(self) -> None:
        """Wait until all that was pushed is uploaded. Raises JaxrepError: an upload failed."""
        if self.last is not None:
            self.last.result()

    def check(self) -> None:
        """Raise the JaxrepError of a failed upload, without waiting."""
        if self.last is not None and self.last.done():
            self.last.result()

    def close(self) -> None:
        """Upload the rest and remove the folder. If that fails, the folder stays and JaxrepError is raised."""
        self.push()
        self._thread.shutdown()
        try:
            self.uploaded()
        except JaxrepError as error:
            raise JaxrepError(f"{error}; what is new stays in {self.folder} until the run goes on") from error
        shutil.rmtree(self.folder, ignore_errors=True)

    def _upload(self) -> None:
        here = self._here()
        for name in sorted(self._there.keys() - here.keys(), key=lambda name: not name.endswith(MARKER)):
            self._tried("removal from", self._remove, name)
            del self._there[name]
        for name in sorted(here, key=_rank):
            if self._there.get(name) == here[name]:
                continue
            folder, _, file = name.rpartition("/")
            beside = [other for other in here if other.startswith(f"{folder}/")] if file == MARKER else []
            if not all((self.folder / other).exists() for other in beside):
                continue  # the checkpoint was removed meanwhile
            self._tried("upload to", self._put, name)
            self._there[name] = here[name]

    def _list(self) -> list[str]:
        self._files.invalidate_cache()
        return sorted(name.removeprefix(f"{self._root}/") for name in self._files.find(self._root))

    def _here(self) -> dict[str, Stamp]:
        """Return the files of this folder that belong in the store; files being written are left out."""
        found = {}
        for folder, _, files in os.walk(self.folder):  # leaves out what is removed meanwhile
            for path in (Path(folder, file) for file in files):
                name = path.relative_to(self.folder).as_posix()
                top, _, below = name.partition("/")
                passing = ".orbax-checkpoint-tmp" in name or name.startswith(".") or name in (URL, layout.LOCK)
                if (not below or top in FOLDERS) and not passing and (stamp := _stamp(path)):
                    found[name] = stamp
        return found

    def _put(self, name: str) -> None:
        path, place = self.folder / name, f"{self._root}/{name}"
        try:
            if name.startswith("checkpoints/"):
                self._files.put_file(str(path), place)  # in parts: it may be large, and does not change
            else:
                self._files.pipe_file(place, path.read_bytes())  # as it is now: it may grow meanwhile
        except FileNotFoundError:
            if path.exists():
                raise

    def _remove(self, name: str) -> None:
        if self._files.exists(f"{self._root}/{name}"):
            self._files.rm_file(f"{self._root}/{name}")

    def _tried(self, what: str, action: Callable[..., T], *args: str) -> T:
        return retry(lambda: action(*args), WAITS, lambda why: JaxrepError(f"the {what} {self.url} failed ({why})"))


def fetch_run(run: str | PathLike[str]) -> Path:
    """Return the folder of a run for reading: its directory, or a copy of a run behind a URL.

    An address on a hub may also be that of a public checkpoint.

    Raises:
        UsageError: there is no run behind the URL.
        JaxrepError: it cannot be read.
    """
    if hub.is_hub(run) or not is_remote(str(run)):
        return hub.local_path(run)
    url = str(run).rstrip("/")
    folder = Path(tempfile.mkdtemp(prefix="jaxrep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    spool = RemoteMirror(url, folder / url.rpartition("/")[2])
    spool.fetch()
    if not (spool.folder / layout.RECIPE).exists():
        raise UsageError(f"{url} is not a run: it holds no recipe.json")
    return spool.folder


def url_of(folder: Path) -> str:
    """Return the place of what a folder holds: the folder, or the URL that it mirrors."""
    return (folder / URL).read_text() if (folder / URL).exists() else hub.address_of(folder) or str(folder)


def checkpoints_of(folder: Path) -> Any:
    """Return the place of the checkpoints of the run in a folder, as a path for orbax: below it, or in gs://."""
    url = url_of(folder)
    if not _in_place(url):
        return folder.absolute() / layout.CHECKPOINTS
    return epath.Path(url) / layout.CHECKPOINTS


def _in_place(url: str) -> bool:
    """Return whether orbax writes and reads in the store itself."""
    return url.startswith("gs://")


def _stamp(path: Path) -> Stamp:
    """Return a value that changes when a file does; empty if the file is gone."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return ()
    return state.st_mtime_ns, state.st_size


def _rank(name: str) -> tuple[bool, bool, bool, str]:
    """Return the order of an upload: metrics before their checkpoint, markers last, results at the end."""
    return name == layout.RESULTS, name.startswith("checkpoints/"), name.endswith(f"/{MARKER}"), name
