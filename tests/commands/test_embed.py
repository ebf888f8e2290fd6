"""``jaxrep embed`` gives the model's embeddings of files, one a name; nothing is left out silently."""

import tarfile

import numpy as np
import pytest

import jaxrep


@pytest.fixture(scope="module")
def model(run_dir):
    return jaxrep.load(run_dir)


@pytest.fixture
def embed(jaxrep_says, run_dir, tmp_path):
    """Runs ``jaxrep embed`` with further arguments; gives what was written and what was said on stderr."""

    def run(*args):
        out = tmp_path / "out.npz"
        status, said, err = jaxrep_says("embed", run_dir, *args, "--out", out)
        assert status == 0 and said.startswith("wrote ")
        assert [path.name for path in tmp_path.glob("*out.npz*")] == ["out.npz"]  # and no temporary file
        with np.load(out) as file:
            return dict(file), err

    return run


@pytest.fixture(scope="module")
def expected(model, pictures):
    """Embeddings of the twelve pictures and of their captions."""
    images = model.encode_image([pictures / f"{n:02}.png" for n in range(12)])
    return images, model.encode_text([f"picture {n}" for n in range(12)])


NAMES = [f"{n:02}.png" for n in range(12)]


def _assert_equal(found, expected):
    """Of components below 1, up to two roundings of float32: batches of other sizes are summed in another order."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=2.4e-7)


def test_a_folder_of_images(embed, pictures, expected):
    found, _ = embed(pictures)
    assert found.keys() == {"image", "names"} and found["names"].tolist() == NAMES
    assert (found["image"].shape, found["image"].dtype) == ((12, 4), np.float32)
    np.testing.assert_array_equal(found["image"], expected[0])
    np.testing.assert_allclose(np.linalg.norm(found["image"], axis=1), 1, atol=1e-6)  # float32


def test_a_table_of_images_and_texts(embed, pictures, expected):
    found, _ = embed(pictures / "pairs.csv", "--image", "filepath", "--text", "title")
    assert found["names"].tolist() == NAMES
    np.testing.assert_array_equal(found["image"], expected[0])
    np.testing.assert_array_equal(found["text"], expected[1])
    found, _ = embed(pictures / "pairs.csv", "--text", "title")
    assert found.keys() == {"text", "names"} and found["names"][3] == "picture 3"


def test_lines_of_text(embed, tmp_path, expected):
    (tmp_path / "lines.txt").write_text("picture 4\npicture 0\n")
    found, _ = embed(tmp_path / "lines.txt")
    assert found["names"].tolist() == ["picture 4", "picture 0"]
    _assert_equal(found["text"], expected[1][[4, 0]])


def test_tars_by_pattern_and_what_cannot_be_read_is_named(embed, pictures, tmp_path, monkeypatch, expected):
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad").write_bytes(b"no picture")
    (tmp_path / "text").write_text("picture 5")
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            tar.add(tmp_path / "bad" if shard else pictures / "03.png", "a.png")
            tar.add(tmp_path / "text", "a.txt")
            tar.add(pictures / f"0{shard}.png", "b.png")
            tar.add(tmp_path / "text", "b.txt")
    found, err = embed(f"{tmp_path}/{{0..1}}.tar")
    assert found["names"].tolist() == ["0.tar/a", "0.tar/b", "1.tar/b"]
    _assert_equal(found["image"], expected[0][[3, 0, 1]])
    assert "1 could not be read and are left out:" in err and "1.tar, member a.png: the picture cannot be" in err
    both, _ = embed(f"{tmp_path}/*.tar", "--image", "png", "--text", "txt")
    _assert_equal(both["text"], expected[1][[5, 5, 5]])
    alone, _ = embed(f"{tmp_path}/1.tar", "--text", "txt")
    assert alone.keys() == {"text", "names"} and len(alone["text"]) == 2


def test_mistakes_are_one_sentence(jaxrep_says, run_dir, pictures, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.jpg").write_bytes(b"no picture")
    table = pictures / "pairs.csv"
    for args, status, told in [
        ((pictures / "none",), 2, "is neither a folder nor a file that ends in .tar"),
        ((table,), 2, "name an image, a text or a label; by --image or --text"),
        ((table, "--text", "titel"), 2, "has no column 'titel'; did you mean title?"),
        ((table, "--image", "a", "b"), 2, "--image names one column"),
        ((pictures, "--text", "title"), 2, "--image and --text name parts of an example"),
        ((tmp_path / "none.txt",), 2, "cannot be read as lines of UTF-8"),
        (("nosuch://bucket/0.tar",), 2, "cannot be reached: "),
        ((tmp_path / "bad",), 1, "none of the 1 examples can be read; the first: "),
    ]:
        found, _, err = jaxrep_says("embed", run_dir, *args, "--out", tmp_path / "out.npz")
        assert (found, told in err) == (status, True), err
    assert not (tmp_path / "out.npz").exists()
    assert jaxrep_says("embed", run_dir, pictures)[0] == 2  # --out is required
