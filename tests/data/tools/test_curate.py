"""Curation in chunks equals a plain loop, with any number of processes, after an interruption, and on Beam."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.sources.text_lines import TextLines
from jaxrep.data.tools import curate as module
from jaxrep.data.tools import curate_beam
from jaxrep.data.tools.curate import Plan, curate
from jaxrep.data.transforms.balance import TakeCurated, digest_of
from jaxrep.errors import UsageError
from jaxrep.storage import read_bytes

pytestmark = pytest.mark.usefixtures("cache")
ENTRIES = ["photo", "red fox", "fox", "owl", "unheard of"]
TEXTS = [f"{'a photo' if n % 3 else ''} of {('a red fox', 'an owl', 'nothing')[n * n % 7 % 3]}, {n}" for n in range(90)]


@pytest.fixture
def metadata(tmp_path):
    (tmp_path / "entries.txt").write_text("\n".join(ENTRIES))
    return (f"{tmp_path}/entries.txt",)


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "pool.txt").write_text("\n".join(TEXTS))
    return TextLines(path=f"{tmp_path}/pool.txt")


def _plan(source, metadata, folder, t=5, seed=0, per_chunk=20):
    return Plan.of(source, metadata, str(folder), t, seed, per_chunk)


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*.*")}


def _kept(plan):
    return TakeCurated(source=plan.source, kept=plan.result).open().column("key")


def test_kept_pairs_equal_plain_loop(tmp_path, lines, metadata):
    plan = _plan(lines, metadata, tmp_path / "out")
    report = curate(plan)
    spaced = [f" {text.replace(',', ' , ')} " for text in TEXTS]
    present = [[n for n, entry in enumerate(ENTRIES) if f" {entry} " in text] for text in spaced]
    counts = Counter(entry for entries in present for entry in entries)
    kept = []
    for text, entries in zip(TEXTS, present, strict=True):
        missed = 1.0
        for entry in entries:
            missed *= 1 - min(1, 5 / counts[entry])
        draw = int(splitmix64(np.array([digest_of(text)], np.uint64) + splitmix64(np.zeros(1, np.uint64)))[0]) / 2**64
        kept += [text] if entries and draw < 1 - missed else []
    assert _kept(plan) == kept and 5 < len(kept) < 60
    after = Counter(entry for text in kept for entry in present[TEXTS.index(text)])
    assert [(row["entry"], row["texts"], row["kept"]) for row in report["most"]] == [
        (ENTRIES[n], counts[n], after[n]) for n in sorted(counts, key=lambda n: (-counts[n], n))
    ]
    assert report["matched"] == sum(map(bool, present)) and report["kept"] == len(kept)
    assert (report["entries"], report["entries_without_text"], report["t"]) == (5, 1, 5)
    assert np.load(tmp_path / "out/counts.npy").tolist() == [counts[n] for n in range(5)]


def test_processes_write_equal_files(tmp_path, lines, metadata):
    curate(_plan(lines, metadata, tmp_path / "a"))
    curate(_plan(lines, metadata, tmp_path / "b"), workers=2)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_chunk_size_changes_nothing(tmp_path, lines, metadata):
    plans = [_plan(lines, metadata, tmp_path / f"{size}", per_chunk=size) for size in (7, 1000)]
    reports = [curate(plan) for plan in plans]
    assert _kept(plans[0]) == _kept(plans[1])
    assert reports[0]["most"] == reports[1]["most"]


@pytest.mark.parametrize("dies", ["match_chunk", "sample_chunk"])
def test_killed_curation_continues(tmp_path, lines, metadata, monkeypatch, dies):
    curate(_plan(lines, metadata, tmp_path / "whole"))
    plan, work = _plan(lines, metadata, tmp_path / "killed"), getattr(module, dies)
    match, matched = module._match, []

    def killed(plan, chunk):
        if chunk == 2:
            raise KeyboardInterrupt
        return work(plan, chunk)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, dies, killed)
        curate(plan)
    assert not Path(plan.result, "curation.json").exists()
    monkeypatch.setattr(module, "_match", lambda plan, chunk: matched.append(chunk) or match(plan, chunk))
    curate(plan)
    assert matched == ([2, 3, 4] if dies == "match_chunk" else [])  # no chunk is matched twice
    assert _files(tmp_path / "whole") == _files(tmp_path / "killed")


def test_another_t_reuses_the_first_pass(tmp_path, lines, metadata, monkeypatch):
    few = _plan(lines, metadata, tmp_path / "out", t=2)
    curate(few)
    monkeypatch.setattr(module, "_match", None)
    many = _plan(lines, metadata, tmp_path / "out", t=40)
    curate(many)
    assert set(_kept(few)) < set(_kept(many))


def test_other_pool_or_entries_are_refused(tmp_path, lines, metadata):
    plan = _plan(lines, metadata, tmp_path / "out")
    curate(plan)
    (tmp_path / "entries.txt").write_text("owl")
    with pytest.raises(UsageError, match=r"out has another curation, described in .*plan.json"):
        curate(_plan(lines, metadata, tmp_path / "out"))
    (tmp_path / "pool.txt").write_text("an owl")
    with pytest.raises(UsageError, match="was curated from 90 examples, and the source has 1"):
        TakeCurated(source=lines, kept=plan.result).open()


def test_remote_folder(lines, metadata):
    plan = _plan(lines, metadata, "memory://curated")
    assert curate(plan) == curate(plan)
    assert len(_kept(plan)) == json.loads(read_bytes(f"{plan.result}/curation.json"))["kept"]


def test_missing_beam_is_reported(tmp_path, lines, metadata, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UsageError, match=r"pip install 'jaxrep\[beam\]'"):
        curate_beam.curate(_plan(lines, metadata, tmp_path / "out"), [])


def test_beam_pipeline_writes_equal_files(tmp_path, lines, metadata):
    pytest.importorskip("apache_beam", reason="apache-beam asks for older protobuf and pyarrow: install jaxrep[beam]")
    plan = _plan(lines, metadata, tmp_path / "beam")
    assert curate_beam.curate(plan, ["--runner=DirectRunner"]) == curate(_plan(lines, metadata, tmp_path / "here"))
    assert _files(tmp_path / "beam") == _files(tmp_path / "here")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_damaged_matches_are_one_sentence(tmp_path, lines, metadata, content):
    plan = _plan(lines, metadata, tmp_path / "out")
    report = curate(plan)
    (tmp_path / "out/matches/00001.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"00001\.npz is damaged .*: remove it and run the same command again"):
        curate(plan)
    (tmp_path / "out/matches/00001.npz").unlink()
    assert curate(plan) == report
