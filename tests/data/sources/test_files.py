"""Folders and tables give every picture with its class or caption, and name the file at fault."""

import numpy as np
import pytest
from PIL import Image

from jaxrep.batch import Field
from jaxrep.data.sources.files import Csv, ImageFolder
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import problems


def _draw(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (level, 0, 0)).save(path)


@pytest.fixture
def folder(tmp_path):
    for level, name in enumerate(("dog/b.png", "dog/a.PNG", "cat/deep/z.webp", "cat/c.png", "dog/.hidden.png")):
        _draw(tmp_path / name, level)
    (tmp_path / "cat/notes.txt").write_text("no picture")
    return tmp_path


TABLE = 'filepath,title,class\nimages/a.png," a cat, asleep",1\nimages/b.png,a dog,0\n\nimages/a.png,a dog,0\n'


@pytest.fixture
def table(tmp_path):
    _draw(tmp_path / "images/a.png", 10)
    _draw(tmp_path / "images/b.png", 20)
    path = tmp_path / "train.csv"
    path.write_text(TABLE)
    return path


# Folder


def test_a_folder_gives_its_pictures_by_name_with_the_sub_folder_as_class(folder):
    source = ImageFolder(path=str(folder), image_size=4)
    examples = source.open()
    assert examples.column("key") == ["cat/c.png", "cat/deep/z.webp", "dog/a.PNG", "dog/b.png"]
    assert examples.column("label").tolist() == [0, 0, 1, 1]
    assert examples.classes == {"label": ["cat", "dog"]}
    assert [int(examples[i]["image"][0, 0, 0]) for i in (0, 2, 3)] == [3, 1, 0]  # the WebP is lossy
    _assert_fields(source, examples)


def test_without_labels_a_folder_may_be_flat(folder):
    _draw(folder / "e.png", 7)
    examples = ImageFolder(path=str(folder), labels_from_folders=False, image_size=4).open()
    assert len(examples) == 5 and "label" not in examples[0]
    with pytest.raises(UsageError, match=r"e.png lies in no sub-folder"):
        ImageFolder(path=str(folder)).open()


def test_a_folder_of_another_number_of_classes_is_refused(folder):
    assert ImageFolder(path="x", classes=2).fields()["label"] == Field((), "int32", 2)
    assert len(ImageFolder(path=str(folder), classes=2).open()) == 4
    with pytest.raises(UsageError, match=r"2 folders of pictures, and classes says 3"):
        ImageFolder(path=str(folder), classes=3).open()


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere"):
        ImageFolder(path=f"{tmp_path}/nowhere").open()
    with pytest.raises(UsageError, match=r"holds no picture"):
        ImageFolder(path=str(tmp_path)).open()


# Csv


def test_a_table_gives_pictures_captions_and_classes(table):
    source = Csv(path=str(table), image_size=4, label="class")
    examples = source.open()
    assert examples.column("text") == ["a cat, asleep", "a dog", "a dog"]
    assert examples.column("label").tolist() == [1, 0, 0]
    assert examples.column("image")[:, 0, 0, 0].tolist() == [10, 20, 10]
    assert examples[-1]["text"] == "a dog"
    _assert_fields(source, examples)


def test_equal_pictures_and_equal_texts_have_equal_ids(table):
    examples = Csv(path=str(table), image_size=4).open()
    image, text = examples.column("image_id"), examples.column("text_id")
    assert image[0] == image[2] != image[1]
    assert text[0] != text[1] == text[2]
    assert [examples[i]["image_id"] for i in range(3)] == image.tolist()


def test_separator_and_columns_are_those_that_are_named(tmp_path):
    (tmp_path / "t.tsv").write_text("\ufeffcaption\tn\n a, b \t3\n")  # a byte order mark, as spreadsheets write it
    examples = Csv(path=f"{tmp_path}/t.tsv", image="", text="caption", label="n", separator="\t").open()
    assert examples[0] == {"key": " a, b ", "text": "a, b", "text_id": examples[0]["text_id"], "label": 3}
    with pytest.raises(UsageError, match=r"has no column 'title'; there are: caption, n"):
        Csv(path=f"{tmp_path}/t.tsv", image="", separator="\t").open()


def test_what_is_wrong_with_a_row_names_its_line(table):
    table.write_text(TABLE + "images/none.png,a bird,0\nimages/b.png\ntrain.csv,a table,x\n")
    examples = Csv(path=str(table), label="class").open()
    wrong = {
        3: r"line 6, column 'filepath': .*none.png cannot be read \(No such file",
        4: "line 7, column 'title': the line ends before the column 'title'",
        5: r"line 8, column 'filepath': the picture cannot be decoded \(unknown format",
    }
    for index, told in wrong.items():
        with pytest.raises(BadSample, match=told):
            examples[index]
    with pytest.raises(IndexError, match=r"example 6 of 6"):
        examples[6]


def test_a_table_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"the table .*none.csv cannot be read \(No such file"):
        Csv(path=f"{tmp_path}/none.csv").open()
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary.csv is not a table in UTF-8"):
        Csv(path=f"{tmp_path}/binary.csv").open()


def test_static_mistakes_are_sentences():
    spec = Csv(path="x", image="", text="", separator="", image_size=0, classes=-1)
    told = "\n".join(problems(spec))
    for part in ("image_size counts pixels", "classes counts", "holds nothing", "separator is one character"):
        assert part in told
    assert problems(Csv(path="gs://bucket/a.csv")) == []  # declared anywhere, opened where it can be read


def _assert_fields(source, examples):
    """That an example holds what the source says without looking."""
    for name, field in source.fields().items():
        value = examples[0][name]
        if field.dtype == "str":
            assert isinstance(value, str)
        else:
            assert (value.shape, value.dtype) == (field.shape, np.dtype(field.dtype))
    assert examples[0].keys() == source.fields().keys()
