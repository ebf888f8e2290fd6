"""Stored embeddings are the fields of the examples that they were computed of, in every format, or are refused."""

import json
import pickle
import tracemalloc
from typing import Any

import fsspec
import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.source import Columns, Source
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.fields import AddWeights, SelectFields
from jaxrep.data.transforms.sentences import FirstSentence
from jaxrep.data.transforms.stored import WithEmbeddings, fingerprint_of
from jaxrep.data.transforms.subsets import Filter, Take, Where
from jaxrep.embeddings.job import Job, parse_target, run_job
from jaxrep.errors import BadSample, BadShard, UsageError
from jaxrep.spec import problems, spec
from tests.helpers import data_formats
from tests.helpers.tars import picture
from tests.helpers.tars import write as write_tar

COUNT, WIDTH = 23, 5
BAD = (0, 7, 8, 9, 10, 11, 12, 13, 22)
"""Examples without embeddings: of shards of five, the first has one, the second and third are missing or nearly so."""
REPORT = BadSampleReport(3, {}, ())
GOOD = np.array([row for row in range(COUNT) if row not in BAD])
IMAGE = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)
OUTS = [
    "{}/e.npz", "{}/e.parquet", "{}/e.array_record", "npz:{}/many", "parquet:{}/many", "arrayrecord:{}/many"
]  # fmt: skip


@spec
class Numbered(Source):
    """Numbers with keys, of which those of one half repeat those of the other."""

    count: int = COUNT
    first: str = "k"

    def fields(self):
        return {"key": Field((), "str"), "number": Field((), "int32")}

    def open(self):
        keys = [f"{self.first}{number % 12}" * (1 + number % 3) for number in range(self.count)]
        return Columns({"key": keys, "number": np.arange(self.count, dtype=np.int32)})


def write(out, bad: Any = BAD, source: Source = Numbered(), values=IMAGE, model="m", per_shard=5):  # noqa: B008
    """Write embeddings as ``jaxrep embed`` does; return where."""
    examples = source.open()

    def embed(rows):
        good = np.array([row for row in rows if row not in bad], int)
        keys = np.array([examples[row]["key"] for row in good])
        report = BadSampleReport(len(rows), {("a", "bad"): len(rows) - len(good)}, ("bad",))
        return ({"key": keys, "index": good, "image": values[good]} if len(good) else None), report

    facts = {
        "model": {"path": "", "digest": model},
        "fingerprint": fingerprint_of(examples),
        "parts": ["image"],
        "length": len(examples),
        "per_shard": per_shard,
    }
    target = parse_target(out)
    run_job(Job(target, facts, len(examples), per_shard), embed)
    return str(target.path)


def tars_with_scores(tmp_path):
    """Write three pairs with two captions, and scores of them; return a source of the pairs, and the scores."""

    def pairs(text="txt", **fields):
        return TarShards(shards=f"{tmp_path}/a.tar", image_size=8, **{"image": ("jpg", "png"), "text": text, **fields})

    members = [
        member
        for n in range(3)
        for member in (
            (f"{n}.png", picture(n)),
            (f"{n}.txt", f"text {n}".encode()),
            (f"{n}.json", json.dumps({"caption": f"other {n}", "alt": f"alt {n}", "similarity": n / 8}).encode()),
        )
    ]
    write_tar(tmp_path / "a.tar", members)
    examples = pairs().open()
    target = parse_target(f"{tmp_path}/scores.npz")
    facts: dict[str, Any] = {
        "model": {"path": "", "digest": "m"},
        "fingerprint": fingerprint_of(examples),
        "parts": ["similarity"],
        "length": 3,
        "per_shard": 3,
    }
    facts["reads"] = {name: examples.read_from(name) for name in ("image", "text")}
    scores = np.arange(3, dtype=np.float32)
    keys = np.array([row["key"] for row in (examples[n] for n in range(3))])
    run_job(Job(target, facts, 3, 3), lambda rows: ({"key": keys, "index": np.arange(3), "similarity": scores}, REPORT))
    return pairs, str(target.path)


def test_scores_of_another_text_are_refused(tmp_path):
    pairs, scores = tars_with_scores(tmp_path)

    def scored(source):
        return stored(scores, source=source, names={"score": "similarity"}, width=0)

    assert scored(pairs()).open()[2]["score"] == 2
    assert scored(pairs(image=("png",))).open()[2]["score"] == 2, "endings that no tar has make no difference"
    assert scored(pairs(image=())).open()[2]["score"] == 2 and scored(pairs(text="")).open()[2]["score"] == 2
    renamed = SelectFields(source=pairs("", captions=("txt",)), names={"key": "key", "text": "txt"})
    assert scored(renamed).open()[2]["score"] == 2
    words = r"has the 'similarity' of a text that was read from \.txt, and this \w+ reads the text from \.json:caption"
    with pytest.raises(UsageError, match=words):
        scored(pairs("json:caption")).open()
    with pytest.raises(UsageError, match=words):
        scored(SelectFields(source=pairs(captions=("json:caption",)), names={"key": "key", "text": "caption"})).open()
    with pytest.raises(UsageError, match=r"reads the text from FirstSentence\(.*\) of \.txt"):
        scored(FirstSentence(source=pairs("", captions=("txt",)), field="txt", name="text")).open()


def test_summaries_without_the_fields_that_were_read_are_taken(tmp_path):
    pairs, scores = tars_with_scores(tmp_path)
    summary = json.loads((tmp_path / "scores.npz.json").read_text())
    del summary["reads"]
    (tmp_path / "scores.npz.json").write_text(json.dumps(summary))
    assert stored(scores, source=pairs("json:caption"), names={"s": "similarity"}, width=0).open()[1]["s"] == 1


def test_names_that_the_data_have_are_refused_or_told(tmp_path, capsys):
    pairs, scores = tars_with_scores(tmp_path)
    same = stored(scores, source=pairs(numbers={"s": "json:similarity"}), names={"s": "similarity"}, width=0)
    with pytest.raises(UsageError, match="the source has a field 's' already, which would be lost: give the new field"):
        same.open()
    column = stored(scores, source=pairs(), names={"similarity": "similarity"}, width=0).open()
    assert column.column("similarity").tolist() == [0, 1, 2]
    told = capsys.readouterr().err
    assert "adds 'similarity', and the data have a column of this name" in told and len(told.splitlines()) == 1
    assert "names={'stored_similarity': 'similarity'}" in told
    stored(scores, source=pairs(), names={"score": "similarity"}, width=0).open()
    assert capsys.readouterr().err == ""


def stored(folder, source: Source = Numbered(), width=WIDTH, **fields):  # noqa: B008
    names = fields.pop("names", {"image_stored": "image"})
    return WithEmbeddings(source=source, folder=folder, names=names, width=width, **fields)


@pytest.mark.parametrize("out", OUTS)
def test_fields_are_the_embeddings_of_their_examples(tmp_path, out):
    source = stored(write(out.format(tmp_path)))
    assert source.fields()["image_stored"] == Field((WIDTH,), "float32")
    examples = source.open()
    indices = np.random.default_rng(1).choice(GOOD, 40)
    found = examples.gather(indices)
    np.testing.assert_array_equal(found["image_stored"], IMAGE[indices])
    np.testing.assert_array_equal(found["number"], indices)
    assert found["image_stored"].dtype == np.float32
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(examples)).gather(indices)["image_stored"], IMAGE[indices])
    for row in BAD:
        with pytest.raises(BadSample, match=f"example {row}: it has no embedding, since it could not be read"):
            examples[row]
    whole = np.where(np.isin(np.arange(COUNT), GOOD)[:, None], IMAGE, np.nan)
    np.testing.assert_array_equal(examples.column("image_stored"), whole)
    np.testing.assert_array_equal(np.concatenate(list(examples.column_parts("image_stored"))), whole)
    assert examples.column("number").tolist() == list(range(COUNT))


def test_rows_are_found_whatever_is_missing(tmp_path):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        bad = set(np.flatnonzero(rng.random(COUNT) < rng.random()).tolist()) - {5}
        for out in (f"{tmp_path}/{seed}.npz", f"npz:{tmp_path}/many.npz/{seed}.npz"):  # a folder may have any name
            examples = stored(write(out, bad, per_shard=int(rng.integers(1, 30)))).open()
            good = np.array([row for row in rng.permutation(COUNT) if row not in bad])
            np.testing.assert_array_equal(examples.gather(good)["image_stored"], IMAGE[good])
            for row in bad:
                with pytest.raises(BadSample, match=f"example {row}: it has no embedding"):
                    examples[row]


def test_another_example_stands_for_one_without_an_embedding(tmp_path):
    examples, asked = stored(write(OUTS[3].format(tmp_path))).open(), []

    def substitute(row, error):
        asked.append((row, str(error)[-20:]))
        return 3

    found = examples.gather(np.array([1, 7, 20]), None, substitute)
    np.testing.assert_array_equal(found["image_stored"], IMAGE[[1, 3, 20]])
    assert found["number"].tolist() == [1, 3, 20] and asked == [(1, "it could not be read")]


@pytest.mark.parametrize("out", OUTS)
def test_all_examples_may_have_embeddings_and_one_number_is_a_score(tmp_path, out):
    score = IMAGE[:, 0].copy()
    score[4] = np.nan
    source = stored(write(out.format(tmp_path), (), values=score), width=0, names={"score": "image"})
    assert source.fields()["score"] == Field((), "float32")
    examples = source.open()
    np.testing.assert_array_equal(examples.gather(np.array([22, 0]))["score"], score[[22, 0]])
    np.testing.assert_array_equal(examples.column("score"), score)
    with pytest.raises(BadSample, match="example 4: its 'image' is not finite, or could not be computed"):
        examples[4]
    kept = Filter(source=source, where=(Where(column="score", at_least=0.0),)).open()
    assert kept.column("number").tolist() == np.flatnonzero(score >= 0).tolist(), "unknown scores are dropped"
    weighted = AddWeights(source=source, column="score").open()
    assert weighted.column("weight")[4] == 1 and weighted[1]["weight"] == score[1]


def test_fingerprint_holds_the_digest_of_the_embeddings(tmp_path):
    one = stored(write(f"npz:{tmp_path}/one"))
    same = write(f"parquet:{tmp_path}/same")
    other = write(f"{tmp_path}/other.npz", values=IMAGE + 1)
    assert one.open().fingerprint() == stored(same).open().fingerprint(), "of the same values in another format"
    two = stored(other, source=one, names={"teacher/image": "image"})
    assert two.open().fingerprint()["embeddings"][0] == one.open().fingerprint()["embeddings"][0]
    assert len(set(two.open().fingerprint()["embeddings"])) == 2
    row = two.open()[1]
    np.testing.assert_array_equal(row["teacher/image"], row["image_stored"] + 1)
    assert not problems(two)
    assert problems(stored(other, names={})) == ["names is empty: name a column, as {'image_stored': 'image'}"]


def test_fields_that_are_added_or_left_out_are_no_other_data(tmp_path):
    folder = write(f"npz:{tmp_path}/many")
    plain = SelectFields(source=Numbered(), names={"number": "number"})
    np.testing.assert_array_equal(stored(folder, source=plain).open()[1]["image_stored"], IMAGE[1])
    taken = Take(source=stored(folder), count=3).open()
    np.testing.assert_array_equal(taken[2]["image_stored"], IMAGE[2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"source": Numbered(count=22)},
            "of other data than this Numbered: examples: 23 -> 22; embed th",
        ),
        (
            {"source": Numbered(first="j")},
            r"other data than this Numbered: digest: '.*' -> '.*'; embed these",
        ),
        ({"source": Take(source=Numbered(), count=9)}, "or put WithEmbeddings around the source that was embedded"),
        ({"model": "n"}, "is of the model m, and model names n"),
        ({"width": 4}, "'image' is 5 wide, and width is 4"),
        ({"width": 0}, "'image' is 5 wide, and width is 0"),
        ({"names": {"a": "imge"}}, "has no column 'imge'; did you mean image"),
        ({"folder": "none"}, r"none/embedding\.json cannot be read \(No such file\): name what jaxrep embed or"),
    ],
)
@pytest.mark.parametrize("out", OUTS[:4])
def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path, out, changes, words):
    folder = changes.get("folder", write(out.format(tmp_path)))
    with pytest.raises(UsageError, match=words) as error:
        stored(folder, **{name: value for name, value in changes.items() if name != "folder"}).open()
    assert len(str(error.value).splitlines()) == 1


def test_rows_of_other_keys_are_refused(tmp_path):
    """As of shards that have the same names and sizes and other contents."""
    folder = write(f"npz:{tmp_path}/many", source=Numbered(first="j"))
    summary = json.loads((tmp_path / "many/embedding.json").read_text())
    summary["fingerprint"] = fingerprint_of(Numbered().open())
    (tmp_path / "many/embedding.json").write_text(json.dumps(summary))
    with pytest.raises(UsageError, match="is of other data: its example 1 is 'j1j1' and not 'k1k1'"):
        stored(folder).open()[1]


@pytest.mark.parametrize("out", OUTS)
def test_damaged_files_are_refused(tmp_path, out):
    folder = write(out.format(tmp_path))
    name = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".npz", ".parquet", ".array_record"))
    content, examples = name.read_bytes(), stored(folder).open()
    np.testing.assert_array_equal(examples[1]["image_stored"], IMAGE[1])
    name.write_bytes(content[:-9])
    with pytest.raises(UsageError, match=r"has [\d,]+ bytes, and its summary says [\d,]+: write it again"):
        stored(folder).open()
    name.write_bytes(bytes(len(content)))
    with pytest.raises(BadShard, match=f"{name.name} (cannot be read|is no )"):
        stored(folder).open()
    name.unlink()
    with pytest.raises(BadShard, match=f"{name.name} cannot be read"):
        stored(folder).open()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.pop("digest"),
        lambda x: x.update(files={}),
        lambda x: x.update(files=3),
        lambda x: x.update(length="a"),
        lambda x: x.update(per_shard=0),
        lambda x: x.update(model="m"),
        lambda x: x.update(files={"../a.tar": {"rows": 3, "bytes": 9}}),
    ],
)
def test_damaged_summaries_are_refused(tmp_path, change):
    folder = write(f"npz:{tmp_path}/many")
    summary = json.loads((tmp_path / "many/embedding.json").read_text())
    change(summary)
    (tmp_path / "many/embedding.json").write_text(json.dumps(summary))
    with pytest.raises((UsageError, BadShard)) as error:
        stored(folder).open()
    assert len(str(error.value).splitlines()) == 1
    (tmp_path / "many/embedding.json").write_text("{")
    with pytest.raises(UsageError, match="is no summary of embeddings with digests"):
        stored(folder).open()


def test_rows_are_read_and_not_files(tmp_path):
    wide = np.zeros((COUNT, 100_000), np.float32)
    folder = write(f"{tmp_path}/e.npz", (), values=wide)
    tracemalloc.start()
    examples = stored(folder, width=100_000).open()
    examples.gather(np.array([3, 17]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert wide.nbytes > 9e6 > 4 * 2 * wide[0].nbytes > peak


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_embeddings_behind_a_url(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path / "cache"))
    write(f"{kind}:{tmp_path}/many")
    store = fsspec.filesystem("memory")
    store.put(f"{tmp_path}/many", "/stored/many", recursive=True)
    found = stored("memory://stored/many").open().gather(GOOD)["image_stored"]
    np.testing.assert_array_equal(found, IMAGE[GOOD])


def test_embeddings_of_images_belong_to_tars_whose_texts_are_read(tmp_path):
    def pictures(**fields):
        return TarShards(shards=f"{tmp_path}/a.tar", image_size=8, **fields)

    data_formats.tar(tmp_path / "a.tar", [{"image": picture(n), "text": f"text {n}"} for n in range(COUNT)])
    folder = write(f"npz:{tmp_path}/many", source=pictures())
    examples = stored(folder, source=pictures(image=())).open()
    found = examples.gather(GOOD)
    assert found.keys() == {"key", "text", "text_id", "image_stored"}
    np.testing.assert_array_equal(found["image_stored"], IMAGE[GOOD])
