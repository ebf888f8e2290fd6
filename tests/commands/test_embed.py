"""``jaxrep embed`` gives the model's embeddings of any data, on any mesh, and goes on after it was killed."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

import jaxrep
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tools.writers import FORMATS, read_row
from tests.helpers.checkpoint_folders import folder
from tests.helpers.embedding_files import assert_equal, columns, joined

NAMES = [f"{n:02}.png" for n in range(12)]
ROUNDING = 2.4e-7
"""Of components below 1, two roundings of float32: other batches and other meshes are summed in another order."""


@pytest.fixture(scope="module")
def model(run_dir):
    """The model as it is loaded: on one device, while the command has eight."""
    return jaxrep.load(run_dir)


@pytest.fixture
def embed(jaxrep_says, run_dir, tmp_path):
    """Runs ``jaxrep embed`` with further arguments; gives what was written and what was said on stderr."""

    def run(*args, of=run_dir):
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}.npz"
        status, said, err = jaxrep_says("embed", of, *args, "--out", out)
        assert status == 0 and said.startswith("wrote "), err
        return columns(out), err

    return run


@pytest.fixture(scope="module")
def expected(model, pictures):
    """Embeddings of the twelve pictures and of their captions."""
    images = model.encode_image([pictures / name for name in NAMES])
    return images, model.encode_text([f"picture {n}" for n in range(12)])


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("mesh", [(), ("--fsdp", 4), ("--batch-size", 5)])
def test_image_folder_on_any_mesh(embed, pictures, expected, mesh):
    found, _ = embed(pictures, *mesh)
    assert found.keys() == {"image", "key", "index"}
    assert found["key"].tolist() == NAMES and found["index"].tolist() == list(range(12))
    assert (found["image"].shape, found["image"].dtype) == ((12, 4), np.float32)
    assert_near(found["image"], expected[0])
    np.testing.assert_allclose(np.linalg.norm(found["image"], axis=1), 1, atol=1e-6)  # float32


def test_a_table_of_images_and_texts(embed, pictures, expected):
    found, _ = embed(pictures / "pairs.csv")
    assert found["key"].tolist() == NAMES
    assert_near(found["image"], expected[0])
    assert_near(found["text"], expected[1])
    found, _ = embed(f"csv:{pictures}/pairs.csv,image=")
    assert found.keys() == {"text", "key", "index"} and found["key"][3] == "picture 3"
    assert_near(found["text"], expected[1])


def test_lines_of_text(embed, tmp_path, expected):
    (tmp_path / "lines.txt").write_text("picture 4\npicture 0\n")
    found, _ = embed(tmp_path / "lines.txt")
    assert found["key"].tolist() == ["picture 4", "picture 0"]
    assert_near(found["text"], expected[1][[4, 0]])


def test_the_embedded_data(embed):
    found, _ = embed("openmoji:test", "--per-shard", 300)
    assert len(found["key"]) == 398 and "-1F3F" in found["key"][0]  # codes with a skin tone
    assert found["image"].shape == found["text"].shape == (398, 4)


@pytest.fixture
def tars(cache, pictures, tmp_path):
    """Two tars; in the second one, the picture of ``a`` is none."""
    (tmp_path / "bad").write_bytes(b"no picture")
    (tmp_path / "text").write_text("picture 5")
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            tar.add(tmp_path / "bad" if shard else pictures / "03.png", "a.png")
            tar.add(tmp_path / "text", "a.txt")
            tar.add(pictures / f"0{shard}.png", "b.png")
            tar.add(tmp_path / "text", "b.txt")
    return tmp_path


def test_tars_report_unreadable_examples_with_reasons(embed, tars, expected):
    found, err = embed(f"{tars}/{{0..1}}.tar")
    assert found["key"].tolist() == ["0.tar/a", "0.tar/b", "1.tar/b"] and found["index"].tolist() == [0, 1, 3]
    assert_near(found["image"], expected[0][[3, 0, 1]])
    assert_near(found["text"], expected[1][[5, 5, 5]])
    assert "1 unreadable: the image cannot be decoded\n" in err and "1.tar, member a.png: the image cannot be" in err
    (summary,) = tars.glob("*.npz.json")
    told = json.loads(summary.read_text())
    assert told["bad_samples"]["shards"] == {f"{tars}/1.tar": {"the image cannot be decoded": 1}}
    assert (told["rows"], told["bad_samples"]["all"], told["bad_samples"]["bad"]) == (3, 4, 1)
    alone, _ = embed(f"{tars}/*.tar,image=")
    assert alone.keys() == {"text", "key", "index"} and len(alone["text"]) == 4


@pytest.mark.parametrize("kind", ["parquet", "arrayrecord"])
def test_tables_and_records(embed, tars, expected, kind):
    examples = TarShards(shards=f"{tars}/0.tar").open()
    ending, write = FORMATS[kind]
    write(tars / f"data{ending}", [read_row(examples, index) for index in range(2)])
    found, _ = embed(tars / f"data{ending}")
    assert_near(found["image"], expected[0][[3, 0]])
    assert_near(found["text"], expected[1][[5, 5]])


@pytest.mark.parametrize("out", ["one.parquet", "one.array_record", "npz:many", "parquet:many", "arrayrecord:many"])
def test_formats_hold_equal_embeddings(embed, jaxrep_says, run_dir, pictures, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    table = pictures / "pairs.csv"
    expected, _ = embed(table, "--per-shard", 5)
    command = ("embed", run_dir, table, "--per-shard", 5, "--out", out)
    assert jaxrep_says(*command)[0] == 0
    many = [path for path in tmp_path.glob("many/0*")]
    assert len(many) == (3 if "many" in out else 0)
    assert_equal(joined(many) if many else columns(tmp_path / out), expected)
    status, said, _ = jaxrep_says(*command)  # there is nothing to do
    assert (status, said) == (0, f"wrote 12 of 12 examples to {out.rpartition(':')[2]}\n")


@pytest.mark.parametrize("out", ["a.npz", "a.parquet", "a.array_record"])
def test_names_of_files_that_are_not_unicode_become_valid_keys(jaxrep_says, run_dir, pictures, tmp_path, out):
    folder = os.fsencode(tmp_path / "pictures")
    os.mkdir(folder)
    for name in (b"\xe9.png", b"b.png"):
        os.link(pictures / NAMES[0], folder + b"/" + name)
    status, _, err = jaxrep_says("embed", run_dir, os.fsdecode(folder), "--out", tmp_path / out)
    assert status == 0, err
    assert columns(tmp_path / out)["key"].tolist() == ["b.png", "\\udce9.png"]


def test_two_hosts_write_shares(jaxrep_says, run_dir, pictures, tmp_path, monkeypatch, embed):
    expected, _ = embed(pictures, "--per-shard", 4)
    command = ("embed", run_dir, pictures, "--per-shard", 4, "--out", f"npz:{tmp_path}/many")
    _, said, _ = jaxrep_says(*command, "--share", "1/2")
    assert said == f"wrote 4 of 4 examples to {tmp_path}/many; other shares are not done yet\n"
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    assert jaxrep_says(*command)[1] == f"wrote 12 of 12 examples to {tmp_path}/many\n"
    assert_equal(joined((tmp_path / "many").glob("0*")), expected)


def test_killed_command_resumes(jaxrep_says, run_dir, tmp_path, embed):
    (tmp_path / "lines.txt").write_text("\n".join(f"picture {n}" for n in range(300)))
    out = tmp_path / "many"
    command = ["embed", run_dir, tmp_path / "lines.txt", "--per-shard", 2, "--out", f"parquet:{out}"]
    program = [sys.executable, "-m", "jaxrep.cli", *map(str, command)]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while len(list(out.glob("*.parquet"))) < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in list(out.glob("*.parquet"))[:2]}
    done = len(list((out / ".jaxrep-embed").glob("0*.json")))
    assert done < 150, "it was killed before its end"
    status, said, _ = jaxrep_says(*command)
    assert (status, said) == (0, f"wrote 300 of 300 examples to {out}\n")
    noted = sorted(path.stat().st_mtime_ns for path in (out / ".jaxrep-embed").glob("0*.json"))
    assert noted[done - 1] < noted[done], "what was done is not done again"
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}.items()
    expected, _ = embed(tmp_path / "lines.txt")
    found = joined(out.glob("*.parquet"))
    assert found["key"].tolist() == expected["key"].tolist()
    assert_near(found["text"], expected["text"])


def test_public_checkpoint_uses_its_transform(embed, pictures, tmp_path):
    folder(tmp_path / "clip", "clip")
    (tmp_path / "clip/preprocessor_config.json").write_text(
        json.dumps(
            dict(size=dict(height=8, width=8), resample=0, image_mean=[0.5] * 3, image_std=[0.25] * 3, do_resize=True)
        )
    )
    (tmp_path / "some").mkdir()
    for name in NAMES[:5]:
        os.link(pictures / name, tmp_path / "some" / name)
    Image.open(pictures / NAMES[0]).rotate(90, expand=True).save(tmp_path / "some/a.tiff")
    (tmp_path / "some/b.png").write_bytes(b"no picture")
    found, err = embed(tmp_path / "some", of=tmp_path / "clip")
    assert found["key"].tolist() == [*NAMES[:5], "a.tiff"] and "1 unreadable: the image cannot be decoded" in err
    wanted = jaxrep.load(tmp_path / "clip").encode_image([tmp_path / "some" / name for name in found["key"]])
    assert_near(found["image"], wanted)


def test_text_model_reads_texts_only(jaxrep_says, pictures, tmp_path):
    folder(tmp_path / "bert", "bert")
    for data, told in [
        (pictures, "holds image, and the model reads text"),
        (pictures / "pairs.csv", "this model has no tokenizer, so it cannot read texts"),
    ]:
        status, _, err = jaxrep_says("embed", tmp_path / "bert", data, "--out", tmp_path / "out.npz")
        assert status and told in err


def test_wrong_arguments_are_one_sentence(jaxrep_says, run_dir, pictures, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.jpg").write_bytes(b"no picture")
    table = pictures / "pairs.csv"
    out = ("--out", tmp_path / "out.npz")
    for args, status, told in [
        ((pictures / "none", *out), 2, "is neither a folder nor a file that ends in .tar"),
        ((f"{table},text=titel", *out), 2, "has no column 'titel'; did you mean title?"),
        ((f"{table},text=,image=", *out), 2, "name an image, a text or a label"),
        ((f"{pictures},text=title", *out), 2, "Folder has no field 'text'"),
        (("openmoji:test,languages=en+de", *out), 2, "holds several texts per example, and one is embedded"),
        ((tmp_path / "none.txt", *out), 2, "none.txt cannot be read"),
        (("nosuch://bucket/0.tar", *out), 2, "cannot be reached: "),
        ((tmp_path / "bad", *out), 1, "none of the 1 examples can be read; the first: "),
        ((pictures, "--out", tmp_path / "out.zip"), 2, "is no local file that ends in .npz, .parquet, .array_record"),
        ((pictures, *out, "--share", "0/2"), 2, "2 processes cannot write one file: name a folder of shards"),
        ((pictures, *out, "--share", "2/2"), 2, "--share is I/N, for four shares from 0/4 to 3/4"),
        ((pictures, *out, "--share", f"0/{10**30}"), 2, "--share is I/N"),
        ((pictures, "--out", "npz:many", "--share", "-1/2"), 2, "--share: expected one argument"),
        ((pictures, *out, "--batch-size", -1), 2, "--batch-size: expected a whole number of at least 1"),
        ((pictures, *out, "--batch-size", 2**70), 2, "--batch-size: expected a whole number of at least 1"),
        ((pictures, *out, "--fsdp", 0), 2, "--fsdp: expected a whole number of at least 1"),
        ((pictures, "--out", "/dev/null"), 2, "is no local file that ends in .npz"),
        ((pictures, *out, "--per-shard", 0), 2, "--per-shard: expected a whole number of at least 1"),
        ((pictures, *out, "--fsdp", 3), 2, "does not fit 8 devices"),
    ]:
        found, _, err = jaxrep_says("embed", run_dir, *args)
        assert (found, told in err) == (status, True), err
    assert not (tmp_path / "out.npz").exists()
    assert jaxrep_says("embed", run_dir, pictures)[0] == 2  # --out is required
    assert jaxrep_says("embed", run_dir, pictures, *out)[0] == 0
    status, _, err = jaxrep_says("embed", run_dir, table, *out)
    assert status == 2 and "out.npz holds other embeddings or scores, by" in err and "name another --out" in err
    status, _, err = jaxrep_says("embed", tmp_path, pictures, *out)
    assert status == 2 and "is neither a run nor a public checkpoint" in err
