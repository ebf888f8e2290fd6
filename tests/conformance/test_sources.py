"""Every source that ``jaxrep.data`` exports keeps the promises of ``Source`` and ``Examples``.

Sources are found by ``jaxrep.data.__all__``; each has a builder in BUILDERS, which returns it with its files below a
folder, or with another source inside.
"""

import csv
import dataclasses
import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from tyro._docstrings import get_field_docstring

from jaxrep import data
from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.tools.curate import Plan, curate
from jaxrep.data.transforms.stored import fingerprint_of
from jaxrep.embeddings.job import Job, parse_target, run_job
from jaxrep.errors import BadSample, BadShard, UsageError
from jaxrep.spec import problems, replace
from jaxrep.spec_json import from_json, to_json
from tests.helpers import data_formats as formats
from tests.helpers import img2dataset
from tests.helpers.opened_files import opened_files
from tests.helpers.tars import npy, picture

COUNT, SIZE = 9, 8
LONG = "A dog runs in {}. It is red.\nThe book is blue"
ROWS = [{"image": picture(20 * n), "text": f"man: dark skin tone, {n}"} for n in range(COUNT)]
MANY = 100
"""Columns of images are read from sources with at most this many examples."""


def table(folder, **changes):
    """A table of images with captions, labels, parsed texts, and a score as metadata."""
    if not (folder / "table").exists():
        (folder / "table").mkdir()
        lines = []
        for n, row in enumerate(ROWS):
            (folder / f"table/{n}.png").write_bytes(row["image"])
            parsed = {"regions": "0.5 0.5 0.1 0.2 a dot", "triples": "man | has | skin"}
            texts = {"filepath": f"{n}.png", "title": row["text"], "long": LONG.format(n), **parsed}
            lines.append({**texts, "class": n % 3, "score": n / 4})
        with (folder / "table/pairs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    fields = {"image_size": SIZE, "label": "class", "captions": ("long", "regions", "triples"), **changes}
    return data.Csv(path=f"{folder}/table/pairs.csv", **fields)


def saved(name, save, make):
    """A builder of a source of one file, which ``save`` writes."""

    def build(folder):
        if not (folder / name).exists():
            save(folder / name, ROWS)
        return make(str(folder / name))

    return build


def around(cls, **fields):
    """A builder of a source around the table."""
    return lambda folder: cls(source=table(folder), **fields)


def karpathy(folder):
    images = [
        {"filename": f"{n}.png", "split": "test", "sentences": [{"raw": f"{n}, view {view}"} for view in range(2)]}
        for n in range(COUNT)
    ]
    path = table(folder).path
    Path(folder / "karpathy.json").write_text(json.dumps({"images": images}))
    images = path.rpartition("/")[0]
    return data.Karpathy(path=f"{folder}/karpathy.json", images=images, captions_per_image=2, image_size=SIZE)


def tars(folder):
    """Tars of img2dataset, with what papers add to them: texts and numbers in JSON, and arrays."""
    if not (folder / "00000.tar").exists():
        rows = [img2dataset.row(n, 0) for n in range(COUNT)]
        vectors = {f"{row['key']}.vector.npy": npy(np.arange(6, dtype=np.float16).reshape(2, 3)) for row in rows}
        img2dataset.shard(folder, 0, rows, more=vectors)
    vector = data.Numbers(at="vector.npy", shape=(2, 3))
    numbers = {"score": "json:clip.similarity", "width": data.Numbers(at="json:width", dtype="int32"), "vector": vector}
    return data.TarShards(
        shards=f"{folder}/0*.tar", text="json:caption", captions=("txt",), numbers=numbers, image_size=8
    )


def uids(folder):
    (folder / "uids.txt").write_text("".join(f"{img2dataset.uid(n)}\n" for n in (1, 4, 6)))
    return data.KeepUids(source=tars(folder), path=f"{folder}/uids.txt")


def label_maps(folder):
    table(folder)
    (folder / "maps").mkdir(exist_ok=True)
    for n in range(COUNT):
        formats.label_map(folder / f"maps/{n}.png", n)
    return data.LabelMaps(path=f"{folder}/table", masks=f"{folder}/maps", classes=COUNT, image_size=SIZE)


def curated(folder):
    entries = folder / "entries.txt"
    entries.write_text("man\nskin")
    plan = Plan.of(table(folder), (str(entries),), f"{folder}/curated", 5, 0, 4)
    curate(plan)
    return data.TakeCurated(source=table(folder), kept=plan.result)


def embedded(folder):
    """The table with stored embeddings of all examples."""
    source, target = table(folder), parse_target(f"{folder}/embeddings.npz")
    examples = source.open()
    parts = {"key": np.array(examples.column("key")), "index": np.arange(COUNT), "image": np.ones((COUNT, 3), "f")}
    facts = {"model": {"digest": "m"}, "fingerprint": fingerprint_of(examples), "parts": ["image"]}
    job = Job(target, facts | {"length": COUNT, "per_shard": COUNT}, COUNT, COUNT)
    run_job(job, lambda rows: (parts, BadSampleReport(COUNT)))
    return data.WithEmbeddings(source=source, folder=str(target.path), names={"image_stored": "image"}, width=3)


def image_folder(path, rows):
    for n, row in enumerate(rows):
        (path / f"class{n % 2}").mkdir(parents=True, exist_ok=True)
        (path / f"class{n % 2}/{n}.png").write_bytes(row["image"])


def arrays(path, rows):
    np.savez(path, series=np.zeros((len(rows), 3, 2), np.float32), size=np.arange(len(rows)))


BUILDERS = {
    "AddWeights": around(data.AddWeights, column="score"),
    "ArrayRecords": saved(
        "x.array_record", formats.array_record, lambda path: data.ArrayRecords(shards=path, image_size=SIZE)
    ),
    "ArrayShards": saved(
        "x.npz",
        arrays,
        lambda path: data.ArrayShards(shards=path, shapes={"series": (3, 2), "size": ()}, kinds={"size": "int32"}),
    ),
    "BalanceConcepts": around(data.BalanceConcepts, t=5),
    "Csv": table,
    "DropModalities": around(data.DropModalities, names=("image", "text"), share=0.5),
    "EmojiPairs": lambda folder: data.EmojiPairs(),
    "FewShot": around(data.FewShot, count=2),
    "Filter": around(data.Filter, where=(data.Where(column="score", at_least=0.5),)),
    "FirstSentence": around(data.FirstSentence, field="long"),
    "Fraction": around(data.Fraction, share=0.5),
    "HardNegativeCaptions": around(data.HardNegativeCaptions, ways=("replace",)),
    "ImageFolder": saved("images", image_folder, lambda path: data.ImageFolder(path=path, image_size=SIZE)),
    "Karpathy": karpathy,
    "KeepUids": uids,
    "LabelMaps": label_maps,
    "Landcover": lambda folder: data.Landcover(image_size=16, count=6),
    "LandcoverSpectra": lambda folder: data.LandcoverSpectra(maps=data.Landcover(image_size=8, count=3), pixels=4),
    "Mixture": lambda folder: data.Mixture(sources={"a": table(folder), "b": data.Take(source=table(folder), count=4)}),
    "OpenMoji": lambda folder: data.OpenMoji(image_size=24),
    "OpenMojiMasks": lambda folder: data.OpenMojiMasks(scenes=data.OpenMojiScenes(image_size=64, count=6)),
    "OpenMojiScenes": lambda folder: data.OpenMojiScenes(image_size=64, count=6),
    "ParquetTable": saved("x.parquet", formats.parquet, lambda path: data.ParquetTable(files=path, image_size=SIZE)),
    "ParseRegions": lambda folder: data.ParseRegions(
        source=dataclasses.replace(table(folder), crop=data.HostResize()), count=2
    ),
    "ParseTriples": around(data.ParseTriples, count=2),
    "SampleCaption": around(data.SampleCaption, probabilities={"text": 1, "long": 2}),
    "SelectFields": around(data.SelectFields, names={"caption": "text", "image": "image", "label": "label"}),
    "ShortenTexts": around(data.ShortenTexts, words=3, keep="random"),
    "SplitCaptions": lambda folder: data.SplitCaptions(source=karpathy(folder), names=("first", "second")),
    "SubCaptions": around(data.SubCaptions, long=("long",), count=2),
    "Take": around(data.Take, count=4),
    "TakeCurated": curated,
    "TarShards": tars,
    "TextLines": saved(
        "x.txt",
        lambda path, rows: path.write_text("\n".join(row["text"] for row in rows)),
        lambda path: data.TextLines(path=path),
    ),
    "Tfds": saved(
        "tfds",
        lambda path, rows: (path.mkdir(), formats.tfds(path, rows)),
        lambda path: data.Tfds(name="tiny", data_dir=path, text="caption", label="label", image_size=SIZE),
    ),
    "WithEmbeddings": embedded,
}


def sources():
    exported = ((name, getattr(data, name)) for name in data.__all__)
    return sorted(
        name
        for name, cls in exported
        if inspect.isclass(cls) and issubclass(cls, data.Source) and not inspect.isabstract(cls)
    )


every_source = pytest.mark.parametrize("name", sources())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of all sources."""
    return tmp_path_factory.mktemp("sources")


@pytest.fixture
def source(name, folder, monkeypatch):
    if name not in BUILDERS:
        pytest.fail(f"add a builder of {name} to BUILDERS in tests/conformance/test_sources.py")
    if "Moji" not in name:  # emojis are drawn once, in the cache of all tests
        monkeypatch.setenv("JAXREP_CACHE", f"{folder}/cache")
    return BUILDERS[name](folder)


def rows_of(columns):
    """Columns as one dictionary per example."""
    count = len(next(iter(columns.values())))
    return [{name: values[i] for name, values in columns.items()} for i in range(count)]


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def indices_of(examples):
    return np.array([len(examples) - 1, 0, len(examples) // 2, 0])


@every_source
def test_json_round_trip_and_help(name, source):
    assert problems(source) == []
    assert from_json(json.loads(json.dumps(to_json(source)))) == source
    names = [field.name for field in dataclasses.fields(source)]
    missing = [field for field in names if not get_field_docstring(type(source), field, ())]
    assert not missing, f"{name}: write a docstring below {missing}"


@every_source
def test_fields_are_known_without_files(source):
    with opened_files() as opened:
        fields = source.fields()
    assert fields and not opened


@every_source
def test_reads_match_fields_and_each_other(source):
    examples, again, fields = source.open(), source.open(), source.fields()
    indices = indices_of(examples)
    columns = examples.gather(indices)
    assert columns.keys() == fields.keys()
    for name, field in fields.items():
        values = columns[name]
        if field.dtype != "str":
            assert (values.shape, str(values.dtype)) == ((len(indices), *field.shape), field.dtype), name
            assert field.classes is None or (values < field.classes).all()
        elif field.shape:
            assert all(isinstance(texts, tuple) and (len(texts),) == field.shape for texts in values), name
        else:
            assert all(isinstance(text, str) for text in values), name
    for i, row in zip(indices, rows_of(columns), strict=True):
        assert_equal(row, examples[int(i)])
        assert_equal(row, again[int(i)])
    assert_equal(columns, pickle.loads(pickle.dumps(examples)).gather(indices))
    with pytest.raises(IndexError):
        examples[len(examples)]


@every_source
def test_draws_follow_from_keys(source):
    examples = source.open()
    indices, keys = np.arange(4) % len(examples), np.arange(4, dtype=np.uint64) * np.uint64(2**60 + 1)
    columns = examples.gather(indices, keys)
    order = np.array([2, 0, 3, 1])
    for row, expected in zip(rows_of(examples.gather(indices[order], keys[order])), order, strict=True):
        assert_equal(row, rows_of(columns)[expected])


@every_source
def test_columns_sizes_and_shards_match_reads(source):
    examples = source.open()
    indices = indices_of(examples)
    rows = rows_of(examples.gather(indices))
    for name, field in source.fields().items():
        if len(field.shape) > 1 and len(examples) > MANY:
            continue
        column = examples.column(name)
        assert len(column) == len(examples)
        for i, row in zip(indices, rows, strict=True):
            if field.dtype != "str" or isinstance(column[i], str):
                np.testing.assert_array_equal(column[i], row[name], err_msg=name)
            else:  # a column of drawn captions has all captions
                texts = (row[name],) if isinstance(row[name], str) else row[name]
                assert set(texts) <= set(column[i]), name
        if field.dtype == "str":
            assert examples.sizes(name).shape == (len(examples),)
    ends = examples.shard_ends
    assert ends[-1] == len(examples) and (np.diff(ends) >= 0).all() and isinstance(examples.shard(0), str)


@every_source
def test_missing_files_are_one_sentence(source, folder):
    text = json.dumps(to_json(source))
    if str(folder) not in text:
        pytest.skip("the source has no files")
    moved = from_json(json.loads(text.replace(str(folder), f"{folder}/nowhere")))
    with pytest.raises((UsageError, BadSample, BadShard)) as error:
        moved.open()[0]
    assert "nowhere" in str(error.value) and len(str(error.value).strip().splitlines()) == 1


@every_source
def test_missing_inner_fields_are_problems(source):
    if not (isinstance(source, data.WrappedSource) and source.reads()):
        pytest.skip("the source reads no field of another one")
    other = data.SelectFields(source=source.source, names={"unused": "key"})
    source = replace(source, source=other)
    actual = problems(source)
    for name in source.reads():
        assert any(f"no field '{name}'" in sentence for sentence in actual)
