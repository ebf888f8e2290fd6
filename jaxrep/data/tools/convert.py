"""Rewrites a source as shards of another format: in parallel, each shard whole or not at all, resumed where it ended.

Shard n holds the examples n * per_shard … of the source, so what is to be done follows from the source alone; a note
of each finished shard lies in ``.jaxrep-convert``. Pictures and texts are copied as they are stored.
"""

import csv
import dataclasses
import functools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from jaxrep.data._util.parallel import parallel_map
from jaxrep.data.source import Examples, Source
from jaxrep.data.tools.try_each import reason
from jaxrep.data.tools.writers import FORMATS, Row, remove, row, write_table
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec_json import to_json

NOTES = ".jaxrep-convert"
NAMED = 3
"""Bad examples of a shard that are named."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is converted into what."""

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

    def facts(self) -> dict[str, Any]:
        """What must be the same where a conversion goes on."""
        source = json.loads(json.dumps(to_json(self.source)))
        return {"source": source, "kind": self.kind, "per_shard": self.per_shard, "length": self.length}

    def path(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"{shard:05}{FORMATS[self.kind][0]}"

    def note(self, shard: int) -> Path:
        """What says that a shard is done."""
        return self.folder / NOTES / f"{shard:05}.json"


def convert(plan: Plan, workers: int = 0) -> dict[str, Any]:
    """Writes what is not there yet; ``workers``: processes, 0: this one.

    ``written`` and the counts of ``bad`` by reason add up to ``all``; ``bad_examples`` names some. Raises UsageError:
    the folder holds another conversion, or cannot be written; BadShard: a shard of the source cannot be read.
    """
    try:
        (plan.folder / NOTES).mkdir(parents=True, exist_ok=True)
        _same(plan)
        left = [shard for shard in plan.shards if not plan.note(shard).exists()]
        for _ in parallel_map(write, plan, left, workers, "converting"):
            pass
        notes = [json.loads(plan.note(shard).read_text()) for shard in plan.shards]
        if plan.kind == "csv":
            _join(plan, [shard for shard, note in zip(plan.shards, notes, strict=True) if note["written"]])
    except OSError as error:
        raise UsageError(f"{plan.folder} cannot be written ({error.strerror}): the same command goes on") from error
    bad = sum((Counter(note["bad"]) for note in notes), Counter())
    named = [told for note in notes for told in note["bad_examples"]]
    return {"written": sum(note["written"] for note in notes), "bad": bad, "all": plan.length, "bad_examples": named}


def _same(plan: Plan) -> None:
    """Notes the plan, or compares with what is noted."""
    path = plan.folder / NOTES / "plan.json"
    if not path.exists():
        if present := [name for name in os.listdir(plan.folder) if name != NOTES]:
            raise UsageError(f"{plan.folder} is not empty ({present[0]}): name a folder that is, or none yet")
        _write(path, json.dumps(plan.facts(), indent=1))
    elif json.loads(path.read_text()) != plan.facts():
        raise UsageError(f"{plan.folder} holds another conversion, of which {path} tells: name another folder")


@functools.lru_cache(1)
def _opened(source: Source) -> Examples:
    return source.open()


def write(plan: Plan, shard: int) -> None:
    """Writes one shard, then its note. A shard without an example that can be read has a note and no file."""
    rows: list[Row] = []
    bad, named = Counter(), []
    examples = _opened(plan.source)
    for index in range(shard * plan.per_shard, min((shard + 1) * plan.per_shard, plan.length)):
        try:
            rows.append(row(examples, index))
        except BadSample as error:
            bad[reason(error)] += 1
            named += [str(error)] if len(named) < NAMED else []
    path = plan.path(shard)
    temporary = path.with_name(f".{path.name}.part")
    for old in (temporary, path):  # of a process that was killed between the two steps
        remove(old)
    if rows:
        FORMATS[plan.kind][1](temporary, rows)
        os.replace(temporary, path)
    _write(plan.note(shard), json.dumps({"written": len(rows), "bad": bad, "bad_examples": named}))


def _join(plan: Plan, shards: list[int]) -> None:
    """One table over the tables of all folders."""
    lines = []
    for folder in map(plan.path, shards):
        with open(folder / "pairs.csv", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                lines.append(line | ({"filepath": f"{folder.name}/{line['filepath']}"} if "filepath" in line else {}))
    temporary = plan.folder / ".pairs.csv.part"
    write_table(temporary, lines)
    os.replace(temporary, plan.folder / "pairs.csv")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)
