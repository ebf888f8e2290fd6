"""``jaxrep data score`` gives the model's similarity of each pair, as a column that filters read, whatever ends it."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import jaxrep
from jaxrep import data
from jaxrep.embeddings.scores import Scorer, scoring_job
from jaxrep.errors import UsageError
from tests.helpers.embedding_files import columns, joined

NAMES = [f"{n:02}.png" for n in range(12)]


@pytest.fixture
def damaged(pictures, tmp_path):
    """The table of pictures and captions, in which the picture of 4 is none, and that of 9 is missing."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in (*NAMES, "pairs.csv"):
        if name != "09.png":
            os.link(pictures / name, folder / name)
    (folder / "04.png").unlink()
    (folder / "04.png").write_bytes(b"no picture")
    return folder / "pairs.csv"


@pytest.mark.parametrize("out", ["s.npz", "s.parquet", "s.array_record", "npz:many"])
def test_scores_are_the_similarity_of_each_pair(jaxrep_says, run_dir, pictures, damaged, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    status, said, err = jaxrep_says("data", "score", damaged, "--model", run_dir, "--per-shard", 5, "--out", out)
    place = out.removeprefix("npz:")
    assert (status, said) == (0, f"scored 10 of 12 examples to {place}\n"), err
    assert "1 unreadable: the image cannot be decoded\n" in err and "1 unreadable: the file cannot be read" in err
    found = columns(tmp_path / out) if place == out else joined((tmp_path / "many").glob("0*"))
    assert found.keys() == {"key", "index", "similarity"}
    assert found["key"].tolist() == NAMES and found["index"].tolist() == list(range(12))
    good = [n for n in range(12) if n not in (4, 9)]
    model = jaxrep.load(run_dir)
    pairs = model.similarity([pictures / NAMES[n] for n in good], [f"picture {n}" for n in good])
    scores = found["similarity"].ravel()
    assert np.isnan(scores[[4, 9]]).all()
    # Sums of four float32 below 1 in another order, of embeddings that other batches round otherwise.
    np.testing.assert_allclose(scores[good], np.diag(pairs), rtol=0, atol=1e-6)
    summary = json.loads((tmp_path / (f"{out}.json" if place == out else "many/embedding.json")).read_text())
    assert (summary["bad_samples"]["bad"], summary["parts"], summary["rows"]) == (2, ["similarity"], 12)

    source = data.WithEmbeddings(
        source=data.Csv(path=str(damaged), image_size=8), folder=place, names={"similarity": "similarity"}, width=0
    )
    other = data.Csv(path=str(damaged), image_size=8, text="filepath")
    with pytest.raises(UsageError, match="was read from 'title', and this Csv reads the text from 'filepath'"):
        data.WithEmbeddings(source=other, folder=place, names={"s": "similarity"}, width=0).open()
    least = float(np.median(scores[good]))
    kept = data.Filter(source=source, where=(data.Where(column="similarity", at_least=least),)).open()
    assert kept.column("key") == [NAMES[n] for n in good if scores[n] >= np.float32(least)]
    assert kept[0]["similarity"] == np.float32(scores[good][scores[good] >= least][0])


@pytest.mark.slow  # the job is that of `jaxrep embed`, whose tests kill it as well
def test_a_command_that_is_killed_at_random_points_comes_to_the_same_bytes(jaxrep_says, run_dir, pictures, tmp_path):
    lines = (pictures / "pairs.csv").read_text().splitlines()
    table = pictures / "many.csv"
    table.write_text("\n".join([lines[0], *lines[1:] * 20]))
    out = tmp_path / "scores.npz"
    command = ["data", "score", table, "--model", run_dir, "--per-shard", "3", "--out", out]
    program = [sys.executable, "-m", "jaxrep.cli", *map(str, command)]
    work, rng = tmp_path / ".scores.npz.jaxrep-embed", random.Random(0)
    done = 0
    for _ in range(2):
        with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while len(list(work.glob("0*.json"))) <= done:
                assert process.poll() is None, process.communicate()
                time.sleep(0.001)
            time.sleep(rng.random() / 50)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        done = len(list(work.glob("0*.json")))
        assert 0 < done < 80, "it was killed before its end"
    status, said, err = jaxrep_says(*command)
    assert (status, said) == (0, f"scored 240 of 240 examples to {out}\n"), err
    assert jaxrep_says(*command[:-1], tmp_path / "whole.npz")[0] == 0
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    summaries = [(tmp_path / f"{name}.npz.json").read_text() for name in ("scores", "whole")]
    assert summaries[0] == summaries[1].replace("whole.npz", "scores.npz")
    assert not work.exists()


def test_in_python(run_dir, pictures, tmp_path):
    model = jaxrep.load(run_dir)
    job, scorer = scoring_job(model, f"{pictures}/pairs.csv", f"{tmp_path}/s.npz")
    assert isinstance(scorer, Scorer) and job.length == 12
    part, report = scorer(range(3, 6))
    assert part["index"].tolist() == [3, 4, 5] and (report.rows, report.bad_rows) == (3, 0)
    with pytest.raises(UsageError, match="the data does not hold 'text'"):
        scoring_job(model, str(pictures), f"{tmp_path}/s.npz")


def test_wrong_arguments_are_one_sentence(jaxrep_says, run_dir, pictures, tmp_path):
    (tmp_path / "bad.csv").write_text("filepath,title\nnone.png,nothing\n")
    table, out = pictures / "pairs.csv", ("--out", tmp_path / "s.npz")
    for args, status, told in [
        ((table, *out), 2, "the following arguments are required: --model"),
        ((table, "--model", run_dir), 2, "the following arguments are required: --out"),
        ((pictures, "--model", run_dir, *out), 2, "the data does not hold 'text'"),
        ((f"{table},text=", "--model", run_dir, *out), 2, "the data does not hold 'text'"),
        ((table, "--model", tmp_path, *out), 2, "is neither a run nor a public checkpoint"),
        ((table, "--model", run_dir, "--out", tmp_path / "s.zip"), 2, "is no local file that ends in .npz"),
        ((tmp_path / "bad.csv", "--model", run_dir, *out), 1, "none of the 1 examples can be read; the first: "),
    ]:
        found, _, err = jaxrep_says("data", "score", *args)
        assert (found, told in err) == (status, True), err
    assert jaxrep_says("data", "score", table, "--model", run_dir, "--out", tmp_path / "t.npz")[0] == 0
    status, _, err = jaxrep_says("embed", run_dir, table, "--out", tmp_path / "t.npz")
    assert status == 2 and "holds other embeddings or scores" in err and "parts" in err
