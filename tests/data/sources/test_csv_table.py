"""Tables give images, captions and classes, and an error names the line."""

import csv

import pytest
from PIL import Image

from jaxrep.data.decode import MAX_TEXT_BYTES
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.csv_table import Csv
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import problems


def _draw(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (level, 0, 0)).save(path)


TABLE = 'filepath,title,class\nimages/a.png," a cat, asleep",1\nimages/b.png,a dog,0\n\nimages/a.png,a dog,0\n'


@pytest.fixture
def table(tmp_path):
    _draw(tmp_path / "images/a.png", 10)
    _draw(tmp_path / "images/b.png", 20)
    path = tmp_path / "train.csv"
    path.write_text(TABLE)
    return path


def test_table_gives_images_captions_and_classes(table):
    examples = Csv(path=str(table), image_size=4, label="class").open()
    assert examples.column("text") == ["a cat, asleep", "a dog", "a dog"]
    assert examples.column("label").tolist() == [1, 0, 0]
    assert examples.column("image")[:, 0, 0, 0].tolist() == [10, 20, 10]
    assert examples[-1]["text"] == "a dog"


def test_equal_contents_have_equal_ids(table):
    examples = Csv(path=str(table), image_size=4).open()
    image, text = examples.column("image_id"), examples.column("text_id")
    assert image[0] == image[2] != image[1]
    assert text[0] != text[1] == text[2]
    assert [examples[i]["image_id"] for i in range(3)] == image.tolist()


def test_separator_and_column_names(tmp_path):
    (tmp_path / "t.tsv").write_text("\ufeffcaption\tn\n a, b \t3\n")  # a byte order mark, as spreadsheets write it
    examples = Csv(path=f"{tmp_path}/t.tsv", image="", text="caption", label="n", separator="\t").open()
    assert examples[0] == {"key": " a, b ", "text": "a, b", "text_id": examples[0]["text_id"], "label": 3}
    with pytest.raises(UsageError, match=r"has no column 'title'; there are: caption, n"):
        Csv(path=f"{tmp_path}/t.tsv", image="", separator="\t").open()


def test_bad_sample_names_its_line(table):
    table.write_text(TABLE + "images/none.png,a bird,0\nimages/b.png\ntrain.csv,a table,x\n")
    examples = Csv(path=str(table), label="class").open()
    wrong = {
        3: r"line 6, column 'filepath': .*none.png cannot be read \(No such file",
        4: "line 7, column 'title': the line ends before the column 'title'",
        5: r"line 8, column 'filepath': the image cannot be decoded \(unknown format",
    }
    for index, message in wrong.items():
        with pytest.raises(BadSample, match=message):
            examples[index]
    with pytest.raises(IndexError, match=r"example 6 of 6"):
        examples[6]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none.csv cannot be read \(No such file"):
        Csv(path=f"{tmp_path}/none.csv").open()
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary.csv is not UTF-8"):
        Csv(path=f"{tmp_path}/binary.csv").open()


def test_problems_are_reported():
    assert len(problems(Csv(path="x", image_size=0, classes=-1))) == 2
    text = "\n".join(problems(Csv(path="x", image="", text="", separator="")))
    assert "an example is empty" in text and "separator is one character" in text
    assert problems(Csv(path="gs://bucket/a.csv")) == []  # declared anywhere, opened where it can be read


def _pairs(count, stray, separator):
    """Return a table of pairs, of which some begin with a quotation mark that never closes."""
    rows = (f"{chr(34) * (n in stray)}sentence {n}{separator}other {n}{separator}{n}" for n in range(count))
    return f"first{separator}second{separator}score\n" + "".join(f"{row}\n" for row in rows)


@pytest.mark.parametrize("stray", [(), (7,), (7, 12), (39,), (0, 1, 2)])
def test_quotation_marks_belong_to_the_text_of_a_tab_separated_table(tmp_path, stray, capsys):
    path = tmp_path / "sts.tsv"
    path.write_text(_pairs(40, stray, "\t"))
    for source in (
        parse_source(f"{path},image=,text=first,label=score"),
        parse_source(f"csv:{path},image=,text=first,label=score"),
        Csv(path=str(path), image="", text="first", label="score", separator="\t"),
    ):
        examples = source.open()
        assert examples.column("text") == ['"' * (n in stray) + f"sentence {n}" for n in range(40)]
        assert examples.column("label").tolist() == list(range(40))
    path.write_text(_pairs(40, stray, ";"))
    examples = Csv(path=str(path), image="", text="first", label="score", separator=";", quoted=False).open()
    assert len(examples) == 40 and not capsys.readouterr().err


@pytest.mark.parametrize("stray", [(7,), (39,), (0, 1, 2)])
def test_table_that_ends_inside_a_quotation_is_refused(tmp_path, stray):
    (tmp_path / "sts.csv").write_text(_pairs(40, stray, ","))
    with pytest.raises(UsageError, match=r"sts.csv, line \d+: it is no table separated by ',' .*; if .*quoted=False"):
        Csv(path=f"{tmp_path}/sts.csv", image="", text="first").open()
    quoted = parse_source(f"{tmp_path}/sts.csv,image=,text=first,quoted=false")
    assert len(quoted.open()) == 40


def test_value_that_swallows_rows_is_told(tmp_path, capsys):
    path = tmp_path / "sts.csv"
    path.write_text('first,second,score\na,b,1\nc,"d,2\ne,f,3\ng,h",4\n')
    examples = Csv(path=str(path), image="", text="first").open()
    assert len(examples) == 2
    assert "1 values span lines that look like rows, the first in line 5; if quotation" in capsys.readouterr().err
    path.write_text('first,second,score\na,b,1\nc,"a poem,\nof two lines",2\n')
    assert len(Csv(path=str(path), image="", text="first").open()) == 2
    assert not capsys.readouterr().err


@pytest.mark.parametrize("separator", [",", "\t"])
def test_long_value_costs_its_row_at_most(tmp_path, separator):
    """Python's reader refuses a table that holds a value of more than 128 KiB."""
    texts = ["a cat", "b" * 200_000, "c" * (MAX_TEXT_BYTES + 1), "a dog"]
    (tmp_path / "t.txt").write_text("\n".join(f"{n}{separator}{text}" for n, text in enumerate(["title", *texts])))
    limit = csv.field_size_limit()
    examples = Csv(path=str(tmp_path / "t.txt"), image="", separator=separator).open()
    assert examples.column("text") == [*texts[:2], "", texts[3]] and csv.field_size_limit() == limit
    with pytest.raises(BadSample, match=r"line 4, column 'title': the text has 1,048,577 bytes, more than the"):
        examples[2]
