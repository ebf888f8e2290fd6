"""Save and restore checkpoints by orbax: asynchronous, atomic, the latest few and the best kept.

A checkpoint holds the TrainState as arrays by path, their digests, and a small JSON with the state of the data.
Incomplete checkpoints are ignored; corrupt ones are moved to ``damaged/``.
"""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from jaxrep import hosts
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.format_version import FORMAT, KEY, version_of
from jaxrep.params import digests
from jaxrep.paths import flatten
from jaxrep.recipe import Checkpointing
from jaxrep.runs import layout
from jaxrep.runs.remote import RemoteMirror, checkpoints_of

# Orbax tells of every file it opens; and of errors, which it raises as well, with tracebacks of its threads.
logging.getLogger("absl").setLevel(logging.CRITICAL)


LOG = logging.getLogger(__name__)


class CorruptCheckpoint(JaxrepError):
    """A checkpoint cannot be read, or does not hold what was saved."""


class Checkpoints:
    """Manage the checkpoints of one run directory."""

    def __init__(self, run_dir: Path, spec: Checkpointing, spool: RemoteMirror | None = None):
        self.directory, self._spool = checkpoints_of(Path(run_dir)), spool

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
        handlers.add("state", ocp.args.StandardSave, state)
        handlers.add("state", ocp.args.StandardRestore, state)
        values = _AfterUpload(spool) if spool else ocp.JsonCheckpointHandler()
        for name in ("meta", "digests"):
            handlers.add(name, ocp.args.JsonSave, values)
            handlers.add(name, ocp.args.JsonRestore, values)
        self._manager = ocp.CheckpointManager(self.directory, options=options, handler_registry=handlers)

    def latest(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def best(self, metric: str) -> int | None:
        """Return the step of the checkpoint with the highest ``metric``, or None if none was evaluated."""
        scores = {step: (self._manager.metrics(step) or {}).get(metric) for step in self._manager.all_steps()}
        known = {step: score for step, score in scores.items() if score is not None}
        return max(known, key=lambda step: (known[step], step)) if known else None

    def save(self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Start to write a checkpoint; return when the arrays are copied. An existing step is kept as it is."""
        if step in self._manager.all_steps():
            return
        self.wait()
        if isinstance(self.directory, Path):
            self._told(lambda: _require_room(self.directory, state))
        arrays = flatten(state)
        meta = {KEY: FORMAT, **meta}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            meta=ocp.args.JsonSave(meta),
            digests=ocp.args.JsonSave({"arrays": digests(arrays), "meta": _digest_of_json(meta)}),
        )
        self._told(lambda: self._manager.save(step, args=args, metrics=metrics or {}))

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
        try:
            shapes = dict(self._manager.item_metadata(step)["state"])
        except Exception as error:  # whatever a reader meets in damaged files
            raise CorruptCheckpoint(f"the checkpoint of step {step} cannot be read ({_brief(error)})") from error
        return self._read(step, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))["state"]

    def _read(self, step: int, like: dict[str, Any]) -> Any:
        found = hosts.on_all_hosts(f"reading of {self.directory / str(step)}", lambda: self._read_alone(step, like))
        now, then = digests(found["state"]), found["digests"]["arrays"]
        if wrong := [path for path in {**now, **then} if now.get(path) != then.get(path)]:
            raise CorruptCheckpoint(
                f"the checkpoint of step {step} does not hold what was saved: the digest of '{wrong[0]}' is another"
                + (f", and those of {len(wrong) - 1} more arrays" if len(wrong) > 1 else "")
            )
        return found

    def _read_alone(self, step: int, like: dict[str, Any]) -> Any:
        read = ocp.args.JsonRestore()
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=read, digests=read)
        try:
            found = self._manager.restore(step, args=args)
        except Exception as error:  # whatever a reader meets in damaged files
            raise CorruptCheckpoint(f"the checkpoint of step {step} cannot be read ({_brief(error)})") from error
        version_of(found["meta"], f"the checkpoint of step {step} in {self.directory}")
        if found["digests"].get("meta") != _digest_of_json(found["meta"]) or "arrays" not in found["digests"]:
            raise CorruptCheckpoint(
                f"the checkpoint of step {step} does not hold what was saved: the digest of its metadata is another"
            )
        return found

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

    def wait(self) -> None:
        """Wait until the last save is committed."""
        self._told(self._manager.wait_until_finished)
        if self._spool:
            self._spool.check()

    def close(self) -> None:
        self._told(self._manager.close)

    def _told(self, action: Any) -> None:
        try:
            action()
        except (OSError, ValueError, RuntimeError) as error:
            fault = _disk_fault(error)
            if not fault:
                raise
            kept = [step for step in self._manager.all_steps(read=True)]
            raise JaxrepError(
                f"a checkpoint could not be written to {self.directory}: {fault}; "
                f"{f'the one of step {max(kept)} is whole' if kept else 'none was written before'}; "
                "make room (or choose another --run-dir) and run the same command to go on"
            ) from error


class _AfterUpload(ocp.JsonCheckpointHandler):
    """Commit a checkpoint after the metrics of its step are uploaded."""

    def __init__(self, spool: RemoteMirror):
        super().__init__()
        self._spool = spool

    async def async_save(self, *args: Any, **named: Any) -> Any:
        self._spool.push()
        return [*(await super().async_save(*args, **named) or ()), self._spool.last]  # orbax awaits all of them


def _digest_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _brief(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _require_room(directory: Path, state: Any) -> None:
    """Raise OSError before a write that would fill the disk: half way, orbax's threads print tracebacks."""
    need = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) // jax.process_count()
    if shutil.disk_usage(directory).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _disk_fault(error: BaseException) -> str:
    """Return what an error says of the disk, in a few words; empty if it is about something else."""
    known = ("No space left on device", "Disk quota exceeded", "Permission denied", "Read-only file system")
    for words in (*known, "Input/output error"):
        if words in str(error):
            return words
    return str(error) if isinstance(error, OSError) else ""
