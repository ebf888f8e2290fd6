"""Save and restore checkpoints by orbax: asynchronous, atomic, the latest few and the best kept.

A checkpoint holds the TrainState as arrays by path, their digests, and a small JSON with the state of the data.
Incomplete checkpoints are ignored; corrupt ones are moved to ``damaged/``.
"""

import contextlib
import errno
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from jaxrep import hosts
from jaxrep.errors import JaxrepError, UsageError, disk_fault
from jaxrep.format_version import FORMAT, KEY, version_of
from jaxrep.params import digests
from jaxrep.paths import flatten
from jaxrep.recipe import Checkpointing
from jaxrep.runs import layout
from jaxrep.runs.orbax_adapters import AfterUpload, end_waiting_threads, literal_path, silence_orbax
from jaxrep.runs.remote import RemoteMirror, checkpoints_of

LOG = logging.getLogger(__name__)
silence_orbax()


class CorruptCheckpoint(JaxrepError):
    """A checkpoint cannot be read, or does not hold what was saved."""


class Checkpoints:
    """Manage the checkpoints of one run directory."""

    def __init__(self, run_dir: Path, spec: Checkpointing, spool: RemoteMirror | None = None):
        self.directory, self._spool, self._spec = checkpoints_of(Path(run_dir)), spool, spec
        self._saved_at = time.monotonic()
        self._unread: int | None = None  # a step that was saved and not yet read back
        self._stack = contextlib.ExitStack()

        def score(metrics: dict[str, float]) -> float:
            return metrics.get(spec.best, -math.inf)

        keep: list[Any] = [managers.LatestN(spec.keep)]
        if spec.best:
            keep.append(managers.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(keep),
            best_fn=score,  # without it orbax does not write metrics
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=spool.push if spool else None),
        )
        handlers, state = ocp.handlers.DefaultCheckpointHandlerRegistry(), ocp.StandardCheckpointHandler()
        values = AfterUpload(spool) if spool else ocp.JsonCheckpointHandler()
        for name, handler, save, restore in (
            ("state", state, ocp.args.StandardSave, ocp.args.StandardRestore),
            ("meta", values, ocp.args.JsonSave, ocp.args.JsonRestore),
            ("digests", values, ocp.args.JsonSave, ocp.args.JsonRestore),
        ):
            handlers.add(name, save, handler)
            handlers.add(name, restore, handler)
        place = self.directory
        with self._told():
            if isinstance(place, Path):
                place.mkdir(parents=True, exist_ok=True)
                self._set_damaged_metrics_aside()
                place = self._stack.enter_context(literal_path(place))
            self._manager = ocp.CheckpointManager(place, options=options, handler_registry=handlers)

    def latest(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def best(self, metric: str) -> int | None:
        """Return the step of the checkpoint with the highest ``metric``, or None if none was evaluated."""
        scores = {step: (self._manager.metrics(step) or {}).get(metric) for step in self._manager.all_steps()}
        known = {step: score for step, score in scores.items() if score is not None}
        return max(known, key=lambda step: (known[step], step)) if known else None

    def due(self, step: int, logged: bool) -> bool:
        """Return whether a step is saved: each ``every_steps``, and ``every_minutes`` after the last save.

        All processes must call this at every step; the clock is that of the first one, which the others hear of on
        ``logged`` steps.
        """
        if step % self._spec.every_steps == 0:
            return True
        if not self._spec.every_minutes or not (logged or jax.process_count() == 1):
            return False
        late = time.monotonic() - self._saved_at >= 60 * self._spec.every_minutes
        return hosts.all_gather_object(f"minutes since a checkpoint, at step {step}", late)[0]

    def save(self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Start to write a checkpoint; return when the arrays are copied. An existing step is kept as it is."""
        self._saved_at = time.monotonic()
        if step in self._manager.all_steps():
            return
        self.wait()
        arrays = flatten(state)
        meta = {KEY: FORMAT, **meta}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            meta=ocp.args.JsonSave(meta),
            digests=ocp.args.JsonSave({"arrays": digests(arrays), "meta": layout.digest(meta)}),
        )
        with self._told():
            if isinstance(self.directory, Path):
                _require_room(self.directory, state)
            self._manager.save(step, args=args, metrics=metrics or {})
        self._unread = step

    def restore_latest(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Return (step, state, metadata) of the newest whole checkpoint, or None if there is none.

        Corrupt newer checkpoints are moved aside once an older one has been read, with a warning.

        Raises:
            CorruptCheckpoint: there are checkpoints, and all of them are corrupt.
            UsageError: a checkpoint has a newer format version.
        """
        faults: list[JaxrepError] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, meta = self.restore(step, like)
            except UsageError:  # a newer format is not damage
                raise
            except JaxrepError as fault:  # its own, or what another host met
                faults.append(fault)
                continue
            for fault in faults:
                LOG.warning("%s; the checkpoint of step %d is used instead", fault, step)
            self._put_aside([later for later in self._manager.all_steps() if later > step])
            return step, state, meta
        if faults:
            told = "; ".join(map(str, faults))
            raise CorruptCheckpoint(f"no checkpoint in {self.directory} is whole: {told}") from faults[0]
        return None

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Return (state, metadata) of a step; ``like`` has the shapes and shardings of the state.

        Raises:
            CorruptCheckpoint: it cannot be read, or does not hold what was saved.
        """
        found = self._read(step, flatten(like))
        leaves = [found["state"][path] for path in flatten(like)]
        meta = {name: value for name, value in found["meta"].items() if name != KEY}
        return jax.tree.unflatten(jax.tree.structure(like), leaves), meta

    def arrays(self, step: int) -> dict[str, Any]:
        """Return the state of a step as arrays by path on this host. Raises CorruptCheckpoint."""
        return self._read(step, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._shapes(step)))[
            "state"
        ]

    def meta(self, step: int) -> dict[str, Any]:
        """Return the metadata of a step, without its arrays. Raises CorruptCheckpoint."""
        return self._items(step)["meta"]

    def _shapes(self, step: int) -> dict[str, Any]:
        with _readable(step):
            return dict(self._manager.item_metadata(step)["state"])

    def _read(self, step: int, like: dict[str, Any]) -> Any:
        what = f"reading of {self.directory / str(step)}"
        found = hosts.on_all_hosts(what, lambda: self._items(step, state=ocp.args.StandardRestore(like)))
        now, then = digests(found["state"]), found["digests"]["arrays"]
        if wrong := [path for path in {**now, **then} if now.get(path) != then.get(path)]:
            more = f", and those of {len(wrong) - 1} more arrays" if len(wrong) > 1 else ""
            raise CorruptCheckpoint(f"{_not_saved(step)}: the digest of '{wrong[0]}' is another{more}")
        return found

    def _items(self, step: int, **items: Any) -> Any:
        """Return items of a checkpoint, and its metadata and digests, which are checked."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore(), digests=ocp.args.JsonRestore(), **items)
        with _readable(step):
            found = self._manager.restore(step, args=args)
        meta, stored = found["meta"], found["digests"]
        if not isinstance(meta, dict) or not isinstance(stored, dict) or not isinstance(stored.get("arrays"), dict):
            raise CorruptCheckpoint(f"{_not_saved(step)}: its metadata or its digests are no JSON objects")
        version_of(meta, f"the checkpoint of step {step} in {self.directory}")
        if stored.get("meta") != layout.digest(meta):
            raise CorruptCheckpoint(f"{_not_saved(step)}: the digest of its metadata is another")
        return found

    def _read_back(self, step: int) -> None:
        """Read what a restore needs besides the arrays. Raises CorruptCheckpoint: no restore could read the step."""
        found = self._items(step)
        if found["digests"]["arrays"].keys() != self._shapes(step).keys():
            raise CorruptCheckpoint(f"{_not_saved(step)}: it holds other arrays")

    def _put_aside(self, damaged: list[int]) -> None:
        """Move checkpoints out of the way of those to be written; a user may look at them."""

        def move() -> None:
            aside = self.directory.with_name(layout.DAMAGED)
            for step in damaged if hosts.is_main() else ():
                if (aside / str(step)).exists():
                    epath.Path(aside / str(step)).rmtree()
                aside.mkdir(exist_ok=True)
                (self.directory / str(step)).rename(aside / str(step))

        if damaged:
            hosts.on_all_hosts(f"moving of {self.directory}", move)
            self._manager.reload()

    def _set_damaged_metrics_aside(self) -> None:
        """Move metrics that cannot be read out of checkpoints that can: only ``best`` needs them."""
        for file in self.directory.glob("[0-9]*/metrics/metrics"):
            step = file.parts[-3]
            try:
                layout.read_results(file)
            except UsageError as error:
                aside = self.directory.with_name(layout.DAMAGED)
                aside.mkdir(exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    file.rename(aside / f"{step}-metrics")
                    LOG.warning("%s; it was moved to %s, and checkpoint.best does not count that step", error, aside)

    def wait(self) -> None:
        """Wait until the last save is committed, and read it back."""
        step, self._unread = self._unread, None
        with self._told():
            self._manager.wait_until_finished()
        if step is not None:
            hosts.on_all_hosts(f"reading back of {self.directory / str(step)}", lambda: self._read_back(step))
        if self._spool:
            self._spool.check()

    def close(self) -> None:
        """Wait for the last save, and end orbax's threads."""
        with self._stack, self._told():
            try:
                self._manager.close()
            except Exception:  # the first call raised the error of a save, and ended nothing
                self._manager.close()
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn an error of the disk within into a sentence that says which checkpoint is left."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if not (fault := disk_fault(error)):
                raise
            end_waiting_threads()
            time.sleep(0.5)  # other writes under way fail as well, silently as long as the program runs
            kept = [path.name for path in self.directory.glob("[0-9]*") if path.name.isdecimal()]
            left = f"the one of step {max(kept, key=int)} is whole" if kept else "none was written before"
            raise JaxrepError(
                f"a checkpoint could not be written to {self.directory}: {fault}; {left}; "
                "make room (or choose another --run-dir) and run the same command to go on"
            ) from error


@contextlib.contextmanager
def _readable(step: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a reader meets in damaged files
        brief = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CorruptCheckpoint(f"the checkpoint of step {step} cannot be read ({brief})") from error


def _not_saved(step: int) -> str:
    return f"the checkpoint of step {step} does not hold what was saved"


def _require_room(directory: Path, state: Any) -> None:
    """Raise OSError before a write that would fill the disk: what is half written helps nobody."""
    need = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) // jax.process_count()
    if shutil.disk_usage(directory).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
