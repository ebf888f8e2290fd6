"""Write the embeddings of a data set shard by shard. An interrupted job resumes with the next command.

Shard n holds the examples n * per_shard … of the data, so the data alone define the work. A note per finished shard
holds its number of rows and the unreadable examples. At the end, a single file is merged from such shards. Several
processes may share a job, each with its own shards. They communicate through the notes only.
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
from jaxrep.data.source import digest
from jaxrep.data.sources.embedding_files import SUMMARY
from jaxrep.embeddings.formats import FORMATS, NpzPart, Part
from jaxrep.errors import UsageError
from jaxrep.runs.layout import read_fields
from jaxrep.runs.run_dir import lock_file
from jaxrep.spec import difference, render_difference
from jaxrep.spec_json import read_json
from jaxrep.storage import check_out

EmbedRows = Callable[[range], tuple[Part | None, BadSampleReport]]
Compute = Callable[[range, Callable[[int], None]], tuple[Part | None, BadSampleReport]]
"""Computes rows, and tells how many are done."""
WORK = ".jaxrep-embed"
READS = "reads"
"""Fact that earlier versions did not write: of what each field is read."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Hold the output of a job: one file, or a folder of shards."""

    path: Path
    kind: str
    """npz, parquet or arrayrecord."""
    is_folder: bool

    @property
    def work(self) -> Path:
        """Return the folder of the notes, and of shards that become one file."""
        return self.path / WORK if self.is_folder else self.path.with_name(f".{self.path.name}{WORK}")

    @property
    def summary(self) -> Path:
        """Return the file that describes the finished embeddings and the unreadable examples."""
        return self.path / SUMMARY if self.is_folder else self.path.with_name(f"{self.path.name}.json")


def parse_target(out: str) -> Target:
    """Parse KIND:FOLDER, or a file with a known ending. Raises UsageError: it is neither, or cannot be written."""
    kind, _, folder = out.partition(":")
    if "://" not in out and kind in FORMATS and folder:
        return Target(Path(folder).expanduser(), kind, is_folder=True)
    kinds = {ending: kind for kind, (ending, _) in FORMATS.items()}
    path = Path(out).expanduser()
    if "://" in out or path.suffix not in kinds:
        raise UsageError(
            f"--out {out} is no local file that ends in {', '.join(kinds)}, and no folder of shards: "
            + ", ".join(f"{kind}:FOLDER" for kind in FORMATS)
        )
    check_out(path)
    return Target(path, kinds[path.suffix], is_folder=False)


@dataclasses.dataclass(frozen=True)
class Job:
    """Describe the data of a job and its output."""

    target: Target
    facts: Mapping[str, Any]
    """JSON values that have to be equal when the job resumes."""
    length: int
    """Number of examples."""
    per_shard: int

    @property
    def shards(self) -> range:
        """Return the numbers of the shards."""
        return range(-(-self.length // self.per_shard))

    def rows(self, shard: int) -> range:
        """Return the examples of a shard."""
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.length))

    @property
    def plan(self) -> Path:
        """Return the file that holds the facts."""
        return self.target.work / "plan.json"

    def note(self, shard: int) -> Path:
        """Return the file that marks a shard as done."""
        return self.target.work / f"{shard:05}.json"

    def shard(self, shard: int) -> Path:
        """Return the file of a shard. A shard without readable examples has no file."""
        folder, kind = (self.target.path, self.target.kind) if self.target.is_folder else (self.target.work, "npz")
        return folder / f"{shard:05}{FORMATS[kind][0]}"

    def remaining(self, share: tuple[int, int] = (0, 1)) -> list[int]:
        """Return the shards of the i-th of n shares that are not done."""
        number, count = share
        return [shard for shard in self.shards[number::count] if not self.note(shard).exists()]


@dataclasses.dataclass(frozen=True)
class JobResult:
    """Report the rows and the unreadable examples of a job, or of a share of it."""

    rows: int
    bad_samples: BadSampleReport
    digest: str
    """Digest of all values."""
    complete: bool = True
    """Whether the shards of all shares are done."""

    def to_json(self) -> dict[str, Any]:
        """Return the contents of a note and of the summary."""
        report = {name: value for name, value in self.bad_samples.to_json().items() if name != "repeats"}
        return {"rows": self.rows, "bad_samples": report, "digest": self.digest}

    @classmethod
    def read(cls, path: Path) -> "JobResult":
        """Read a note or a summary. Raises UsageError: it is damaged."""
        values = read_fields(path, ["rows", "bad_samples", "digest"], rows=int, bad_samples=dict, digest=str)
        try:
            return cls(values["rows"], BadSampleReport.from_json(values["bad_samples"]), values["digest"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{path} is damaged, no report of bad samples: remove it and run again") from error


def run_job(job: Job, embed: EmbedRows, share: tuple[int, int] = (0, 1)) -> JobResult:
    """Embed the remaining shards of the i-th of n shares, and finish the job after the last shard of all shares.

    Raises:
        UsageError: The output holds another job, it cannot be written, or another process does this share.
    """
    try:
        if _is_finished(job):
            return JobResult.read(job.target.summary)
        _claim(job)
        with lock_file(job.target.work / f"share-{share[0]}-of-{share[1]}.lock", "--out"):
            for shard in job.remaining(share):
                _write_shard(job, shard, *embed(job.rows(shard)))
            return _finish(job, share)
    except OSError as error:
        raise UsageError(
            f"{job.target.path} cannot be written ({error.strerror}): run the same command again"
        ) from error


def _is_finished(job: Job) -> bool:
    """Return whether the file exists already. Raises UsageError: it is another one."""
    target = job.target
    if target.is_folder or not target.path.exists():
        return False
    if target.summary.exists():
        _check_same(job, target.summary)
        shutil.rmtree(target.work, ignore_errors=True)  # the last step of the job
        return True
    if not job.plan.exists():  # else the job ended between its last two steps
        raise UsageError(f"{target.path} exists already, without {target.summary}, which would describe it")
    return False


def _claim(job: Job) -> None:
    """Write the facts of the job, or compare them with the existing ones. Processes may start at the same time."""
    target = job.target
    target.work.mkdir(parents=True, exist_ok=True)
    files = [name for name in os.listdir(target.path) if name != WORK] if target.is_folder else []
    if files and not job.plan.exists():
        raise UsageError(f"{target.path} is not empty ({files[0]}): name an empty or a new folder")
    if not target.is_folder and not target.path.exists():
        target.summary.unlink(missing_ok=True)  # of a file that was removed
    temporary = job.plan.with_name(f"{uuid.uuid4().hex}.part")
    temporary.write_text(json.dumps(job.facts, indent=1))
    try:
        os.link(temporary, job.plan)  # fails if the file exists
    except FileExistsError:
        _check_same(job, job.plan)
    finally:
        temporary.unlink()


def _check_same(job: Job, path: Path) -> None:
    existing = read_json(path)
    facts = {name: fact for name, fact in job.facts.items() if name in existing or name != READS}
    if changes := difference({name: existing.get(name) for name in facts}, facts):
        first = render_difference(changes[:1])
        raise UsageError(f"{job.target.path} holds other embeddings or scores, by {path}: {first}; name another --out")


def _write_shard(job: Job, shard: int, part: Part | None, report: BadSampleReport) -> None:
    """Write one shard, then its note."""
    path = job.shard(shard)
    if part is not None:
        write = FORMATS[job.target.kind if job.target.is_folder else "npz"][1]
        _write_atomically(job, path, lambda temporary: write(temporary, [part]))
    rows, columns = (0, {}) if part is None else (len(part["key"]), part)
    values = digest(value for column in columns.items() for value in column)
    note = json.dumps(JobResult(rows, report, values).to_json())
    _write_atomically(job, job.note(shard), lambda temporary: temporary.write_text(note))


def _finish(job: Job, share: tuple[int, int]) -> JobResult:
    """Return the result of the share. After the last shard: of the job, and write the summary and the single file."""
    if job.remaining():
        return dataclasses.replace(_sum_notes(job, job.shards[share[0] :: share[1]]), complete=False)
    result, target = _sum_notes(job, job.shards), job.target
    if not target.is_folder and result.rows:
        paths = [job.shard(shard) for shard in job.shards]
        parts = [NpzPart(path) for path in paths if path.exists()]
        _write_atomically(job, target.path, lambda temporary: FORMATS[target.kind][1](temporary, parts))
    summary = json.dumps({**job.facts, **result.to_json(), "files": _files(job, result)}, indent=1)
    _write_atomically(job, target.summary, lambda temporary: temporary.write_text(summary), str(share[0]))
    if not target.is_folder:
        shutil.rmtree(target.work)
    return result


def _files(job: Job, result: JobResult) -> dict[str, dict[str, int]]:
    """Return the rows and the bytes of each file, by which a reader knows that it has all of them."""
    rows = {job.target.path: result.rows}
    if job.target.is_folder:
        rows = {job.shard(shard): JobResult.read(job.note(shard)).rows for shard in job.shards}
    return {path.name: {"rows": count, "bytes": path.stat().st_size} for path, count in rows.items() if count}


def _sum_notes(job: Job, shards: range) -> JobResult:
    notes = [JobResult.read(job.note(shard)) for shard in shards]
    report = sum((note.bad_samples for note in notes), BadSampleReport())
    return JobResult(sum(note.rows for note in notes), report, digest(note.digest for note in notes))


def _write_atomically(job: Job, path: Path, write: Callable[[Path], Any], process: str = "") -> None:
    """Write a whole file or nothing. ``process`` separates files that several processes may write at the same time."""
    temporary = job.target.work / f"{path.name}.{process}part"
    write(temporary)
    os.replace(temporary, path)
