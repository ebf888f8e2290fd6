"""A part of an example is a member of its own, or a value at a path in a member of JSON."""

import json

import numpy as np
import pytest

from jaxrep.data.loading.loader import Tokenize
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.json_path import ABSENT, find_value
from jaxrep.data.sources.numbers import Numbers
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.data.tools.convert import Plan, convert
from jaxrep.data.tools.survey import survey
from jaxrep.data.transforms.captions import SampleCaption
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import problems
from tests.helpers.tars import npy, picture, write

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a", 1),
        ("b.c", 2),
        ("b.d.e", [3]),
        ("x.y", 4),
        ("x.y.z", ABSENT),
        ("p.q.r", 5),
        ("b", {"c": 2, "d": {"e": [3]}}),
        ("", ABSENT),
        ("b.", ABSENT),
        (".a", ABSENT),
        ("none", ABSENT),
        ("null", None),
    ],
)
def test_find_value(path, value):
    document = {"a": 1, "b": {"c": 2, "d": {"e": [3]}}, "x.y": 4, "p.q": {"r": 5}, "null": None}
    assert find_value(document, path) == value
    assert find_value([document], path) is ABSENT


def tar(folder, documents, **members):
    """A tar of pictures with these documents, and further members by ending."""
    files = []
    for n, document in enumerate(documents):
        parts = {"png": picture(n), "json": document if isinstance(document, bytes) else json.dumps(document).encode()}
        files += [(f"{n:03}.{ending}", content) for ending, content in parts.items()]
        files += [(f"{n:03}.{name.replace('_', '.')}", values[n]) for name, values in members.items()]
    return str(write(folder / "x.tar", files))


def read(path, **fields):
    return TarShards(shards=path, **{"text": "", "image_size": 4, **fields})


def test_texts_labels_and_numbers_are_read(tmp_path):
    documents = [{"caption": f" a {n}\n", "label": n, "meta": {"clip.l": n / 4, "box": [n, 1]}} for n in range(4)]
    vectors = [npy(np.full(3, n, np.float16)) for n in range(4)]
    numbers = {
        "score": "json:meta.clip.l",
        "box": Numbers(at="json:meta.box", shape=(2,), dtype="int32"),
        "image_embedding": Numbers(at="npy", shape=(3,)),
        "row_id": Numbers(at="json:label", dtype="int32"),
    }
    path = tar(tmp_path, documents, npy=vectors)
    source = read(path, text="json:caption", label="json:label", numbers=numbers)
    assert problems(source) == []
    examples = source.open()
    batch = examples.gather(np.array([3, 1]))
    assert batch["text"] == ["a 3", "a 1"] and batch["label"].tolist() == batch["row_id"].tolist() == [3, 1]
    assert batch["score"].dtype == np.float32 and batch["score"].tolist() == [0.75, 0.25]
    assert batch["box"].tolist() == [[3, 1], [1, 1]] and batch["image_embedding"].tolist() == [[3] * 3, [1] * 3]
    assert examples.column("score").tolist() == examples.sizes("score").tolist() == [0, 0.25, 0.5, 0.75]
    assert examples.sizes("text").tolist() == [3] * 4  # of the text, not of its member


def test_labels_may_be_arrays(tmp_path):
    """A class number in NumPy's format, as tar, and as what a conversion of it holds."""
    labels = [npy(np.array(n, dtype)) for n, dtype in ((3, "u1"), (1, ">i8"), (2, "f4"), (-1, "i4"), ([1], "i4"))]
    path = tar(tmp_path, [{}] * 5, npy=labels)
    examples = read(path, label="npy", classes=4).open()
    assert examples.column("label").tolist() == [3, 1, 2, -1, -1]
    assert [examples[n]["label"] for n in range(3)] == [3, 1, 2]
    for index, message in ((3, "the label is a whole number below 4, not '-1'"), (4, r"have the shape \(1,\)")):
        with pytest.raises(BadSample, match=message):
            examples[index]
    convert(Plan(read(path, label="npy"), "tar", tmp_path / "out", 10, 5))
    assert read(f"{tmp_path}/out/*.tar", label="cls").open().column("label").tolist() == [3, 1, 2]


def test_lists_are_several_captions(tmp_path):
    captions = [["a", "b", None], ["c"], "d", ["e", "f", "g"]]
    path = tar(tmp_path, [{"captions": value, "short": f"s{n}"} for n, value in enumerate(captions)])
    source = read(path, text="json:captions", captions=("json:short",))
    examples = source.open()
    assert examples.column("text") == [("a", "b"), ("c",), ("d",), ("e", "f", "g")]
    ids = examples.column("text_id")
    assert [len(each) for each in ids] == [2, 1, 1, 3] and len({n for each in ids for n in each}) == 7
    drawn = SampleCaption(source=source, probabilities={"text": 3, "short": 1})
    assert problems(drawn) == []
    keys = np.arange(400, dtype=np.uint64) * np.uint64(2**60 + 1)
    batch = drawn.open().gather(np.arange(400) % 4, keys)
    assert set(batch["text"]) == {*"abcdefg", "s0", "s1", "s2", "s3"} and batch["text_id"].dtype == np.int32
    by_text = dict(zip(batch["text"], batch["text_id"].tolist(), strict=True))
    assert by_text["b"] == ids[0][1] and by_text["d"] == ids[2][0]
    assert abs(sum(text.startswith("s") for text in batch["text"]) - 100) < 40  # one in four: 3 deviations are 26
    assert survey(examples)[0]["examples"] == 4


def test_several_captions_are_no_text_to_train_on(tmp_path):
    path = tar(tmp_path, [{"captions": ["a", "b"]}, {"captions": ["c", "d"]}])
    examples = read(path, text="json:captions").open()
    tokenize = Tokenize(Bytes(length=4).load(()), ("text",), single=("text",))
    with pytest.raises(UsageError, match=r"'text' holds several captions .*SampleCaption.*'text': 1"):
        tokenize(examples.gather(np.arange(2)))
    plan = Plan(read(path, text="json:captions"), "tar", tmp_path / "out", 10, 2)
    with pytest.raises(UsageError, match=r"an example has 2 values of 'text', and one is stored: choose one"):
        convert(plan)


def test_single_numbers_are_converted_as_metadata(tmp_path):
    path = tar(tmp_path, [{"s": n / 2} for n in range(2)], npy=[npy(np.arange(2))] * 2)
    convert(Plan(read(path, numbers={"score": "json:s"}), "parquet", tmp_path / "out", 10, 2))
    examples = parse_source(f"{tmp_path}/out/00000.parquet,text=,image_size=4").open()
    assert examples.column("score").tolist() == [0, 0.5]
    arrays = read(path, numbers={"v": Numbers(at="npy", shape=(2,))})
    with pytest.raises(UsageError, match=r"an example has 2 values of 'v', and one is stored"):
        convert(Plan(arrays, "tar", tmp_path / "more", 10, 2))


@pytest.mark.parametrize(
    ("document", "fields", "message"),
    [
        ({"a": None}, {"text": "json:a"}, "member 001.json: 'a' cannot be read: it is null"),
        ({"a": []}, {"text": "json:a"}, "'a' cannot be read: it is an empty list"),
        ({"a": [None]}, {"text": "json:a"}, "'a' cannot be read: it is null"),
        ({"a": {"b": "c"}}, {"text": "json:a"}, "it is a dict, and a text or a list of texts is read"),
        ({"a": [["b"], "c"]}, {"text": "json:a"}, "it is a list, and a text or a list of texts is read"),
        ({"a": " "}, {"text": "json:a"}, "member 001.json: the text is empty"),
        ({"a": "\ud800"}, {"text": "json:a"}, "the text is not UTF-8"),
        ({"A": "x"}, {"text": "json:a"}, "its JSON has no 'a'; there are: A"),
        (b"{broken", {"text": "json:a"}, "member 001.json: it is not JSON"),
        (b"[1]", {"text": "json:a"}, "its JSON has no 'a'; it is a list and no object with names"),
        (b"[" * 100_000, {"text": "json:a"}, "it is not JSON"),
        ({"a": "x"}, {"numbers": {"n": "json:a"}}, "neither a NumPy array nor numbers, but 'x'"),
        ({"a": 1.5}, {"label": "json:a"}, "the label is a whole number of 31 bits, not '1.5'"),
        ({"a": True}, {"label": "json:a"}, "the label is a whole number of 31 bits, not 'true'"),
        ({"a": None}, {"numbers": {"n": "json:a"}}, "'a' cannot be read: it is null"),
        ({"a": [1, 2]}, {"numbers": {"n": "json:a"}}, r"have the shape \(2,\), and \(\) is declared"),
    ],
)
def test_odd_value_is_a_bad_sample(tmp_path, document, fields, message):
    path = tar(tmp_path, [{"a": "1"}, document])
    examples = read(path, **fields).open()
    assert examples[0]
    with pytest.raises(BadSample, match=message):
        examples[1]


def test_objects_are_never_unpickled(tmp_path):
    path = tar(tmp_path, [{}, {}], npy=[npy(np.zeros(2)), npy(np.array([{}, print], object))])
    examples = read(path, numbers={"v": Numbers(at="npy", shape=(2,))}).open()
    assert examples[0]["v"].tolist() == [0, 0]
    with pytest.raises(BadSample, match=r"x.tar, member 001.npy: .*Python objects"):
        examples[1]
    column = examples.column("v")
    assert column[0].tolist() == [0, 0] and np.isnan(column[1]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"text": "json:captoin"},
            r"text is read from .json:captoin, which none of the first 3 examples has, .* mean cap",
        ),
        ({"label": "json:meta.clas"}, r"label is read from .json:meta.clas, .*did you mean meta.class\?"),
        (
            {"numbers": {"s": "json:meta.class.deep"}},
            r"s is read from .json:meta.class.deep, which none of the first 3",
        ),
        (
            {"text": "meta:caption"},
            r"no member that ends in .meta, of which text is read; there are: .json, .png; a .json ",
        ),
        ({"numbers": {"s": "npy"}}, r"no member that ends in .npy, of which s is read"),
    ],
)
def test_wrong_paths_are_refused_at_once(tmp_path, fields, message):
    path = tar(tmp_path, [{"caption": "a", "meta": {"class": 1}}] * 3)
    with pytest.raises(UsageError, match=message):
        read(path, **fields).open()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"captions": ("alt", "json:x.alt")},
            "captions and numbers are fields by their names, and 'alt' is one already",
        ),
        ({"numbers": {"label": "npy"}}, "'label' is one already: give its place as label="),
        ({"captions": ("alt",), "numbers": {"alt_id": "npy"}}, "'alt_id' is one already"),
        ({"image": ("json:image",)}, "an image is a member of its own, and json:image is a path in JSON"),
        ({"text": "json:"}, "text is an extension, or EXTENSION:PATH as json:caption, not .json:"),
        ({"text": ":caption"}, "text is an extension, or EXTENSION:PATH as json:caption, not .:caption"),
        ({"numbers": {"s": ""}}, "s is an extension, or EXTENSION:PATH"),
        ({"numbers": {"s": Numbers(at="npy", shape=(-1,))}}, "numbers.s.shape.0: expected a number of at least 0"),
    ],
)
def test_problems(fields, message):
    assert any(message in sentence for sentence in problems(TarShards(shards="x.tar", **fields)))


def test_source_strings_name_paths():
    """Only the first colon ends the kind."""
    for text in ("tar:x.tar,text=json:caption", "x.tar,text=json:caption", "hf://datasets/o/n/x.tar,text=json:a.b"):
        source = parse_source(text)
        assert isinstance(source, TarShards) and source.text in ("json:caption", "json:a.b")
    source = parse_source("tar:gs://b/{0..2}.tar,captions=json:alt+long,numbers=score:json:s+v:npy,label=json:class")
    numbers = {"score": "json:s", "v": "npy"}
    assert source == TarShards(
        shards="gs://b/{0..2}.tar", captions=("json:alt", "long"), numbers=numbers, label="json:class"
    )
    with pytest.raises(UsageError, match=r"numbers: a part is NAME:WHERE, as score:json:similarity, not 'score'"):
        parse_source("x.tar,numbers=score")


def test_examples_with_several_images_are_counted(tmp_path, capsys):
    """Endings may be mixed; where one key has two images, the order of the endings decides, and it is told."""
    files = [(f"{n}.{ending}", picture(n)) for n, ending in enumerate(("jpg", "jpeg", "png", "webp", "JPG"))]
    write(tmp_path / "x.tar", [*files, ("2.jpeg", picture(7)), ("3.gif", picture(8))])
    examples = read(f"{tmp_path}/x.tar").open()
    assert [examples[n]["image"][0, 0, 0] for n in range(5)] == [0, 1, 7, 3, 4]
    assert (
        "have 1 examples with several images, of which the first of .jpg, .jpeg, .png, .webp" in capsys.readouterr().err
    )
