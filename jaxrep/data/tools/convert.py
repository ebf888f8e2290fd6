"""Convert a source to shards of another format, in parallel; an interrupted conversion continues.

Shard n has the examples n * per_shard … of the source, so the work follows from the source alone. A shard is written
atomically, and then noted in ``.jaxrep-convert``. Images and texts are copied as they are stored.
"""

import csv
import dataclasses
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from jaxrep.data._util.parallel import parallel_map
from jaxrep.data.source import Source
from jaxrep.data.tools.reading import Failures, opened, read_all
from jaxrep.data.tools.resume import write_or_compare
from jaxrep.data.tools.writers import FORMATS, read_row, write_table
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec_json import read_json, redacted, to_json
from jaxrep.storage import write_file

NOTES = ".jaxrep-convert"
THREADS = 2
"""Threads of each process: as many processes as cores convert large data."""
MESSAGES = 3
"""Number of bad examples per shard whose messages are kept."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Describe a conversion."""

    source: Source
    kind: str
    """tar, arrayrecord, parquet or csv."""
    folder: Path
    per_shard: int
    length: int
    """Examples of the source."""

    @property
    def shards(self) -> range:
        """Numbers of the shards."""
        return range(-(-self.length // self.per_shard))

    def to_json(self) -> dict[str, Any]:
        """Return what a continued conversion has to share."""
        plan = {"kind": self.kind, "per_shard": self.per_shard, "length": self.length}
        return {"source": redacted(to_json(self.source)), **plan}

    def path(self, shard: int) -> Path:
        """Return the path of a shard."""
        return self.folder / f"{shard:05}{FORMATS[self.kind][0]}"

    def note(self, shard: int) -> Path:
        """Return the path of the note that a shard is done."""
        return self.folder / NOTES / f"{shard:05}.json"


def convert(plan: Plan, workers: int = 0) -> dict[str, Any]:
    """Write the missing shards; ``workers``: processes, 0: this process.

    ``written`` and the counts of ``bad`` by reason add up to ``all``; ``bad_examples`` has some messages. Raises
    UsageError: the folder has another conversion, or cannot be written; BadShard: a shard of the source cannot be read.
    """
    try:
        (plan.folder / NOTES).mkdir(parents=True, exist_ok=True)
        path = plan.folder / NOTES / "plan.json"
        if not path.exists() and (present := [name for name in os.listdir(plan.folder) if name != NOTES]):
            raise UsageError(f"{plan.folder} is not empty ({present[0]}): name an empty or a new folder")
        write_or_compare(str(path), plan.to_json(), str(plan.folder), "conversion")
        left = [shard for shard in plan.shards if not plan.note(shard).exists()]
        for _ in parallel_map(write_shard, plan, left, workers, "converting"):
            pass
        notes = [read_note(plan.note(shard)) for shard in plan.shards]
        if plan.kind == "csv":
            _join(plan, [shard for shard, note in zip(plan.shards, notes, strict=True) if note["written"]])
    except OSError as error:
        message = f"{plan.folder} cannot be written ({error.strerror}): run the same command again to continue"
        raise UsageError(message) from error
    bad = sum((Counter(note["bad"]) for note in notes), Counter())
    messages = [message for note in notes for message in note["bad_examples"]]
    return {"written": sum(note["written"] for note in notes), "bad": bad, "all": plan.length, "bad_examples": messages}


def read_note(path: Path) -> dict[str, Any]:
    """Read the note of a shard. Raises UsageError: it is damaged."""
    note = read_json(path)
    if [type(note.get(name)) for name in ("written", "bad", "bad_examples")] != [int, dict, list]:
        raise UsageError(f"{path} is damaged: remove it and run the same command again")
    return note


def write_shard(plan: Plan, shard: int) -> None:
    """Write one shard, then its note. A shard without a readable example has a note and no file."""
    examples, failures = opened(plan.source), Failures(MESSAGES)
    indices = range(shard * plan.per_shard, min((shard + 1) * plan.per_shard, plan.length))
    rows = read_all(lambda index: read_row(examples, index), indices, "", failures, (BadSample,), THREADS, examples)
    rows = [row for _, row in rows]
    path = plan.path(shard)
    temporary = path.with_name(f".{path.name}.part")
    for old in (temporary, path):  # of a process that was killed between the two steps
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    if rows:
        FORMATS[plan.kind][1](temporary, rows)
        os.replace(temporary, path)
    note = {"written": len(rows), "bad": failures.counts, "bad_examples": failures.messages}
    write_file(str(plan.note(shard)), json.dumps(note).encode())


def _join(plan: Plan, shards: list[int]) -> None:
    """Join the tables of all folders."""
    lines = []
    for folder in map(plan.path, shards):
        with open(folder / "pairs.csv", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                lines.append(line | ({"filepath": f"{folder.name}/{line['filepath']}"} if "filepath" in line else {}))
    temporary = plan.folder / ".pairs.csv.part"
    write_table(temporary, lines)
    os.replace(temporary, plan.folder / "pairs.csv")
