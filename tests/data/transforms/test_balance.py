"""Balancing depends on the pairs alone, keeps the shares of algorithm 1, and keeps all pairs of rare entries."""

import hashlib
import io
import math
import random
from collections import Counter

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms.balance import (
    BalanceConcepts,
    Matches,
    TakeCurated,
    keep,
    pair_probabilities,
    probabilities,
)
from jaxrep.data.transforms.entry_matcher import vocabulary
from jaxrep.errors import UsageError
from jaxrep.spec import problems, spec


def _pool(pairs, seed=0):
    """Entries of each pair: entry k in a share 1 / (k + 1) of all, so that some pairs have none and some have many."""
    rng = np.random.default_rng(seed)
    return [[k for k in range(12) if rng.random() < 0.5 / (k + 1)] for _ in range(pairs)]


def _found(pool, prefix=""):
    return Matches.of((row, f"{prefix}{row}", entries) for row, entries in enumerate(pool))


def test_counts_and_probabilities_equal_plain_loop():
    pool, t = _pool(500), 30
    counts = Counter(entry for entries in pool for entry in entries)
    actual = _found(pool)
    assert actual.counts().tolist() == [counts[k] for k in range(12)]
    expected = [1 - math.prod(1 - min(1, t / counts[k]) for k in entries) for entries in pool if entries]
    np.testing.assert_allclose(pair_probabilities(actual, probabilities(actual.counts(), t)), expected, rtol=1e-12)


def test_kept_share_equals_sampling_per_entry():
    """Algorithm 1 as printed, with other draws: both shares are near the expectation."""
    pool, t = _pool(20_000), 1_000
    actual = _found(pool)
    probability = probabilities(actual.counts(), t)
    expected = pair_probabilities(actual, probability)
    draw = random.Random(0)
    printed = sum(any(draw.random() < probability[k] for k in entries) for entries in pool)
    spread = math.sqrt((expected * (1 - expected)).sum())
    for kept in (printed, keep(actual, probability, 0).sum(), keep(actual, probability, 7).sum()):
        assert abs(kept - expected.sum()) < 4 * spread  # four standard deviations


def test_entry_keeps_all_pairs_up_to_t_and_about_t_above():
    pool = [[0]] * 5_000 + [[1]] * 100 + [[0, 1]] * 10
    actual = _found(pool)
    kept = keep(actual, probabilities(actual.counts(), 200), 0)
    assert kept[5_000:].all()
    assert abs(actual.counts(kept)[0] - 210) < 60  # 200 of 5,010, and the ten that entry 1 keeps


def test_draws_depend_on_key_and_seed_only():
    pool = _pool(400)
    whole = _found(pool)
    probability = probabilities(whole.counts(), 20)
    parts = [Matches.of((row, f"{row}", pool[row]) for row in range(a, a + 100)) for a in (300, 0, 200, 100)]
    rows = sorted(row for part in parts for row in part.rows[keep(part, probability, 3)].tolist())
    assert rows == whole.rows[keep(whole, probability, 3)].tolist()
    assert rows != whole.rows[keep(whole, probability, 4)].tolist()
    other = _found(pool, "other/")
    assert rows != other.rows[keep(other, probability, 3)].tolist()


def test_smaller_t_keeps_subset_of_larger_t():
    actual = _found(_pool(2_000))
    few, many = (keep(actual, probabilities(actual.counts(), t), 0) for t in (20, 100))
    assert few.sum() < many.sum() and not (few & ~many).any()


def _splitmix(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_draws_are_pinned():
    """Curation is reproducible: the hash, computed in integers."""
    actual = Matches.of([(0, "a", [0]), (1, "é", []), (2, "00000.tar/000/12", [0])])
    assert actual.rows.tolist() == [0, 2]
    for n, key in enumerate(("a", "00000.tar/000/12")):
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        draw = (_splitmix((number + _splitmix(5)) % 2**64) >> 11) / 2**53
        assert not keep(actual, np.array([draw - 1e-9]), 5)[n] and keep(actual, np.array([draw + 1e-9]), 5)[n]


@spec
class Texts(Source):
    """Texts in memory; some examples have two."""

    texts: tuple[str | tuple[str, ...], ...]

    def fields(self):
        return {"text": Field((), "str")}

    def open(self):
        return Columns({"text": list(self.texts)})


def test_balance_concepts_keeps_rare_texts(tmp_path):
    common, rare = ("a photo",) * 300, ("an owl: photo", ("a cat", "an owl"), "a dog")
    source = Texts(texts=(*common, *rare))
    (tmp_path / "entries.txt").write_text("owl\nphoto\n")
    actual = BalanceConcepts(source=source, metadata=(f"{tmp_path}/entries.txt",), t=10).open().column("text")
    assert actual[-2:] == list(rare[:2]) and set(actual[:-2]) == {"a photo"} and 2 < len(actual) < 30
    words = BalanceConcepts(source=source, t=10).open().column("text")  # every word is an entry
    assert words[-3:] == list(rare) and len(words) < 40
    assert words == BalanceConcepts(source=source, t=10).open().column("text")


def test_unreadable_texts_are_no_entry_and_are_not_kept():
    source = Texts(texts=("", "a", "", ("", "b")))
    assert BalanceConcepts(source=source, t=10).open().column("text") == ["a", ("", "b")]
    assert vocabulary(["", "a", " "]) == ["a"]


def test_problems_are_reported(tmp_path):
    source = Texts(texts=("a", "b"))
    assert len(problems(BalanceConcepts(source=source, t=0, seed=-1))) == 2
    assert "no field 'title'" in problems(BalanceConcepts(source=source, text="title"))[0]
    (tmp_path / "entries.txt").write_text("owl\n")
    with pytest.raises(UsageError, match="none of 2 texts has one of 1 entries"):
        BalanceConcepts(source=source, metadata=(f"{tmp_path}/entries.txt",)).open()


def saved(rows):
    file = io.BytesIO()
    np.save(file, np.array(rows, np.uint32))
    return file.getvalue()


@pytest.mark.parametrize(
    ("report", "rows"),
    [
        ('{"examples": 4, "per_chunk": 4}', b"no array"),
        ('{"examples": 4, "per_chunk": 4}', b""),
        ('{"examples": 4, "per_chunk": 4}', saved([1, 9])),
        ('{"examples": 4, "per_chunk": 4}', saved([2, 1])),
        ('{"examples": 4, "per_chunk": 0}', saved([1])),
        ('{"examples": "4", "per_chunk": 4}', saved([1])),
        ("[]", saved([1])),
        ("{}", saved([1])),
        ("{", saved([1])),
    ],
)
def test_damaged_curation_is_one_sentence(tmp_path, report, rows):
    (tmp_path / "curation.json").write_text(report)
    (tmp_path / "00000.npy").write_bytes(rows)
    with pytest.raises(UsageError, match=rf"^{tmp_path} holds no curation that can be read \(.*\): curate again"):
        TakeCurated(source=Texts(texts=("a", "b", "c", "d")), kept=str(tmp_path)).open()
