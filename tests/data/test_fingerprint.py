"""The fingerprint of data is equal where the data are, and differs where they changed."""

import json
import shutil

import numpy as np
import pytest

from jaxrep import data
from jaxrep.data.source import Columns, Examples
from jaxrep.data.transforms.mixture import MixedExamples
from jaxrep.spec import difference
from tests.helpers.listed_source import Listed
from tests.helpers.tars import pairs, picture, write

pytestmark = pytest.mark.usefixtures("cache")


def rows(count, text="text {}"):
    return [("a.png", text.format(n)) for n in range(count)]


def table(folder, count=5, text="text {}"):
    lines = [",".join(row) for row in [("filepath", "title"), *rows(count, text)]]
    (folder / "t.csv").write_text("\n".join(lines))
    return data.Csv(path=f"{folder}/t.csv", image="")


def lines(folder, count=5, text="text {}"):
    (folder / "t.txt").write_text("\n".join(text.format(n) for n in range(count)))
    return data.TextLines(path=f"{folder}/t.txt")


def tars(folder, count=5, text="text {}"):
    write(folder / "0.tar", [*pairs(range(count)), ("0.en", text.encode())])
    write(folder / "1.tar", pairs([7]))
    return data.TarShards(shards=f"{folder}/{{0..1}}.tar")


def karpathy(folder, count=5, text="text {}"):
    images = [{"filename": f"{n}.jpg", "split": "test", "sentences": [{"raw": text.format(n)}]} for n in range(count)]
    (folder / "k.json").write_text(json.dumps({"images": images}))
    return data.Karpathy(path=f"{folder}/k.json", images=str(folder), captions_per_image=1)


def arrays(folder, count=5, text="text {}"):
    np.savez(folder / "0.npz", x=np.zeros(count), y=np.zeros(len(text)))
    return data.ArrayShards(shards=f"{folder}/*.npz", shapes={"x": ()})


def pictures(folder, count=5, text="text {}"):
    (folder / text[0]).mkdir(exist_ok=True)
    for n in range(count):
        (folder / text[0] / f"{n}.png").write_bytes(picture(n))
    return data.ImageFolder(path=str(folder), labels_from_folders=False)


def taken(folder, count=5, text="text {}"):
    return data.Take(source=lines(folder, count, text), count=3)


def mixed(folder, count=5, text="text {}"):
    return data.Mixture(sources={"a": taken(folder, count, text), "b": lines(folder, count, text)})


def weighed(folder, count=5, text="text {}"):
    return data.FirstSentence(source=table(folder, count, text))


@pytest.fixture(
    params=[table, lines, tars, karpathy, arrays, pictures, taken, mixed, weighed], ids=lambda make: make.__name__
)
def make(request):
    return request.param


def found(source):
    """Return the fingerprint after a journey through JSON."""
    value = source.open().fingerprint()
    assert json.loads(json.dumps(value)) == value
    assert value["examples"] == len(source.open()) and len(json.dumps(value)) < 1000
    return value


def test_fingerprint_is_the_same_in_another_folder(make, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = [found(make(folder)) for folder in folders]
    assert first == second and not difference(first, second)


@pytest.mark.parametrize("change", [{"count": 7}, {"count": 4}, {"text": "words {}!"}], ids=str)
def test_fingerprint_tells_changed_data(make, tmp_path, change):
    first = found(make(tmp_path))
    shutil.rmtree(tmp_path / "t", ignore_errors=True)
    for path in tmp_path.glob("*.*"):
        path.unlink()
    assert difference(first, found(make(tmp_path, **change)))


def test_fingerprint_of_arrays_in_memory():
    whole = Columns({"x": np.arange(6), "text": list("abcdef")}).fingerprint()
    assert whole == Columns({"x": np.arange(6), "text": list("abcdef")}).fingerprint()
    for changed in ({"x": np.arange(1, 7), "text": list("abcdef")}, {"x": np.arange(6), "text": list("abcdeg")}):
        assert Columns(changed).fingerprint() != whole


def test_fingerprint_names_the_source_that_changed():
    parts = {"a": Listed(4), "b": Columns({"x": np.arange(3)})}
    before = MixedExamples(data.Mixture(sources={}), parts).fingerprint()
    after = MixedExamples(data.Mixture(sources={}), parts | {"b": Columns({"x": np.arange(1, 4)})}).fingerprint()
    assert [change.path for change in difference(before, after)] == ["sources.b.digest"]
    assert isinstance(parts["a"], Examples) and before["sources"]["a"] == {"examples": 4}


def test_fingerprint_holds_the_lexicon_and_the_weights(tmp_path):
    source, lexicon = lines(tmp_path), tmp_path / "lexicon.txt"
    lexicon.write_text("color: red | blue\n")
    wrong = data.HardNegativeCaptions(source=source, lexicon=str(lexicon))
    before = found(wrong)
    lexicon.write_text("color: red | green\n")
    assert [change.path for change in difference(before, found(wrong))] == ["lexicon"]
    (tmp_path / "t.csv").write_text("title,score\na,1\nb,2\n")
    weighted = [
        found(data.AddWeights(source=data.Csv(path=f"{tmp_path}/t.csv", image=""), column="score", default=n))
        for n in (1, 2)
    ]
    assert weighted[0] == weighted[1]
    (tmp_path / "t.csv").write_text("title,score\na,1\nb,3\n")
    after = found(data.AddWeights(source=data.Csv(path=f"{tmp_path}/t.csv", image=""), column="score"))
    assert [change.path for change in difference(weighted[0], after)] == ["digest", "weights"]
