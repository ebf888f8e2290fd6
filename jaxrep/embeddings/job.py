"""Writes the embeddings of a data set shard by shard, each whole or not at all; the same job goes on where it ended.

Shard n holds the examples n * per_shard … of the data, so what is to be done follows from the data alone; a note of
each finished shard says how many rows it has and what could not be read. One file is made of such shards at the end.
Several processes may do a job, each its share of the shards: no word passes between them but the notes.
"""

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.embeddings.formats import FORMATS, Part, Stored
from jaxrep.errors import UsageError
from jaxrep.runs.run_dir import lock_file
from jaxrep.spec import difference, render_difference

Embed = Callable[[range], tuple[Part | None, BadSampleReport]]
WORK = ".jaxrep-embed"


@dataclasses.dataclass(frozen=True)
class Target:
    """What ``--out`` names: one file, or a folder of shards."""

    path: Path
    kind: str
    """npz, parquet or arrayrecord."""
    many: bool
    """Whether it is a folder."""

    @property
    def work(self) -> Path:
        """The folder of the notes, and of shards that become one file."""
        return self.path / WORK if self.many else self.path.with_name(f".{self.path.name}{WORK}")

    @property
    def summary(self) -> Path:
        """What says, at the end, what was embedded and what was left out."""
        return self.path / "embedding.json" if self.many else self.path.with_name(f"{self.path.name}.json")


def target(out: str) -> Target:
    """KIND:FOLDER, or a file by its ending. Raises UsageError: it is neither, or cannot be written."""
    kind, _, folder = out.partition(":")
    endings = {ending: kind for kind, (ending, _) in FORMATS.items()}
    file = next((kind for ending, kind in endings.items() if out.endswith(ending)), None)
    if "://" in out or not (file or (kind in FORMATS and folder)):
        raise UsageError(
            f"--out {out} is no local file that ends in {', '.join(endings)}, and no folder of shards: "
            + ", ".join(f"{kind}:FOLDER" for kind in FORMATS)
        )
    if kind in FORMATS and folder:
        return Target(Path(folder).expanduser(), kind, many=True)
    path = Path(out).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        wrong = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"--out {path} cannot be written: {wrong}")
    return Target(path, str(file), many=False)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is embedded into what."""

    target: Target
    facts: Mapping[str, Any]
    """In JSON's types: what must be the same where the job goes on."""
    length: int
    """Examples of the data."""
    per_shard: int

    @property
    def shards(self) -> range:
        """Numbers of the shards."""
        return range(-(-self.length // self.per_shard))

    def rows(self, shard: int) -> range:
        """The examples of a shard."""
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.length))

    @property
    def plan(self) -> Path:
        """What says which job it is."""
        return self.target.work / "plan.json"

    def note(self, shard: int) -> Path:
        """What says that a shard is done."""
        return self.target.work / f"{shard:05}.json"

    def shard(self, shard: int) -> Path:
        """Where a shard lies. One in which no example can be read has no file."""
        folder, kind = (self.target.path, self.target.kind) if self.target.many else (self.target.work, "npz")
        return folder / f"{shard:05}{FORMATS[kind][0]}"

    def left(self, share: tuple[int, int] = (0, 1)) -> list[int]:
        """The shards of the i-th of n shares that are not done."""
        number, count = share
        return [shard for shard in self.shards[number::count] if not self.note(shard).exists()]


@dataclasses.dataclass(frozen=True)
class Told:
    """What became of a job, or of a share of it."""

    rows: int
    ledger: BadSampleReport
    whole: bool = True
    """Whether all shards are done, of all shares."""

    def to_json(self) -> dict[str, Any]:
        """As notes and the summary hold it."""
        ledger = {name: value for name, value in self.ledger.to_json().items() if name != "repeats"}
        return {"rows": self.rows, "ledger": ledger}

    @classmethod
    def read(cls, path: Path) -> "Told":
        """The inverse, from a file."""
        found = json.loads(path.read_text())
        return cls(found["rows"], BadSampleReport.from_json(found["ledger"]))


def run(job: Job, embed: Embed, share: tuple[int, int] = (0, 1)) -> Told:
    """Does what is left of the i-th of n shares, and ends the job where nothing of any share is left.

    Raises UsageError: another job lies there, nothing can be written, another process does this share.
    """
    try:
        if _ended(job):
            return Told.read(job.target.summary)
        _claim(job)
        with lock_file(job.target.work / f"share-{share[0]}-of-{share[1]}.lock", "--out"):
            for shard in job.left(share):
                _write(job, shard, *embed(job.rows(shard)))
            return _end(job, share)
    except OSError as error:
        raise UsageError(f"{job.target.path} cannot be written ({error.strerror}): the same command goes on") from error


def _ended(job: Job) -> bool:
    """Whether the file is there already. Raises UsageError: it is another one."""
    target = job.target
    if target.many or not target.path.exists():
        return False
    if target.summary.exists():
        _same(job, target.summary)
        shutil.rmtree(target.work, ignore_errors=True)  # the job's last step
        return True
    if not job.plan.exists():  # else the job ended between its last two steps
        raise UsageError(f"{target.path} is there already, and {target.summary} is not, which would say what it holds")
    return False


def _claim(job: Job) -> None:
    """Notes what is embedded, or compares with what is noted: processes may start at once, and one is the first."""
    target = job.target
    target.work.mkdir(parents=True, exist_ok=True)
    others = [name for name in os.listdir(target.path) if name != WORK] if target.many else []
    if others and not job.plan.exists():
        raise UsageError(f"{target.path} is not empty ({others[0]}): name a folder that is, or none yet")
    if not target.many and not target.path.exists():
        target.summary.unlink(missing_ok=True)  # of a file that was removed
    own = job.plan.with_name(f"{uuid.uuid4().hex}.part")
    own.write_text(json.dumps(job.facts, indent=1))
    try:
        os.link(own, job.plan)  # fails where there is one
    except FileExistsError:
        _same(job, job.plan)
    finally:
        own.unlink()


def _same(job: Job, path: Path) -> None:
    held = json.loads(path.read_text())
    facts = json.loads(json.dumps(job.facts))
    if changes := difference({name: held.get(name) for name in facts}, facts):
        first = render_difference(changes[:1])
        raise UsageError(f"{job.target.path} holds another embedding, by {path}: {first}; name another --out")


def _write(job: Job, shard: int, part: Part | None, ledger: BadSampleReport) -> None:
    """Writes one shard, then its note."""
    path = job.shard(shard)
    if part is not None:
        write = FORMATS[job.target.kind if job.target.many else "npz"][1]
        _whole(job, path, lambda temporary: write(temporary, [part]))
    note = json.dumps(Told(0 if part is None else len(part["key"]), ledger).to_json())
    _whole(job, job.note(shard), lambda temporary: temporary.write_text(note))


def _end(job: Job, share: tuple[int, int]) -> Told:
    """What became of the share; where all is done, of all of it, with the summary and the one file."""
    if job.left():
        return dataclasses.replace(_sum(job, job.shards[share[0] :: share[1]]), whole=False)
    told, target = _sum(job, job.shards), job.target
    if not target.many and told.rows:
        shards = [job.shard(shard) for shard in job.shards]
        parts = [Stored(shard) for shard in shards if shard.exists()]
        _whole(job, target.path, lambda temporary: FORMATS[target.kind][1](temporary, parts))
    summary = json.dumps({**job.facts, **told.to_json()}, indent=1)
    _whole(job, target.summary, lambda temporary: temporary.write_text(summary), str(share[0]))
    if not target.many:
        shutil.rmtree(target.work)
    return told


def _sum(job: Job, shards: range) -> Told:
    notes = [Told.read(job.note(shard)) for shard in shards]
    return Told(sum(note.rows for note in notes), sum((note.ledger for note in notes), BadSampleReport()))


def _whole(job: Job, path: Path, write: Callable[[Path], Any], own: str = "") -> None:
    """Writes a file whole or not at all. ``own`` tells apart what several processes may write at once."""
    temporary = job.target.work / f"{path.name}.{own}part"
    write(temporary)
    os.replace(temporary, path)
