"""A job that ends anywhere goes on where it ended, and comes to the same files; another job is refused."""

import json
import os

import numpy as np
import pytest

from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.embeddings import job as module
from jaxrep.embeddings.job import Job, parse_target, run_job
from jaxrep.errors import UsageError
from tests.helpers.embedding_files import assert_equal, columns, joined


class Embed:
    """Numbers instead of a model; every seventh example is bad, and so are all of shard 1. It counts its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, rows):
        self.calls.append(rows.start)
        good = np.array([row for row in rows if row % 7 and row not in range(3, 6)])
        bad = len(rows) - len(good)
        report = BadSampleReport(
            len(rows), {("a.tar", "it is bad"): bad} if bad else {}, (f"{rows.start}: it is bad",) * bad
        )
        image = np.outer(good, [1, 0.5]).astype(np.float32)
        columns = {"key": np.array([f"k{row}" for row in good]), "index": good, "image": image}
        return (columns if len(good) else None), report


GOOD = np.array([row for row in range(16) if row % 7 and row not in range(3, 6)])


def job(out, **facts):
    return Job(parse_target(str(out)), {"model": "m", "data": {"path": "x"}, **facts}, 16, 3)


def shards(folder):
    return [path for path in folder.iterdir() if path.name[0].isdecimal()]


@pytest.mark.parametrize("out", ["e.npz", "e.parquet", "e.array_record"])
def test_one_file(tmp_path, out):
    result = run_job(job(tmp_path / out), Embed())
    assert (result.rows, result.bad_samples.rows, result.bad_samples.bad_rows) == (10, 16, 6)
    found = columns(tmp_path / out)
    image = np.outer(GOOD, [1, 0.5]).astype(np.float32)
    assert_equal(found, {"key": np.array([f"k{row}" for row in GOOD]), "index": GOOD, "image": image})
    assert sorted(path.name for path in tmp_path.iterdir()) == [out, f"{out}.json"]
    summary = json.loads((tmp_path / f"{out}.json").read_text())
    assert (summary["model"], summary["rows"], summary["bad_samples"]["shards"]) == (
        "m",
        10,
        {"a.tar": {"it is bad": 6}},
    )


@pytest.mark.parametrize("kind", ["npz", "parquet", "arrayrecord"])
def test_folder_has_the_same_rows_as_one_file(tmp_path, kind):
    run_job(job(tmp_path / "e.npz"), Embed())
    result = run_job(job(f"{kind}:{tmp_path}/many"), Embed())
    assert result.rows == 10 and result.complete
    found = shards(tmp_path / "many")
    assert sorted(path.name[:5] for path in found) == ["00000", "00002", "00003", "00004", "00005"]
    assert_equal(joined(found), columns(tmp_path / "e.npz"))
    assert json.loads((tmp_path / "many/embedding.json").read_text())["rows"] == 10


class Killed(BaseException):
    pass


@pytest.mark.parametrize("out", ["{}/e.npz", "{}/e.parquet", "npz:{}/many"])
def test_killed_job_resumes_to_the_same_bytes(tmp_path, out, monkeypatch):
    """Before each step that makes a file appear, or the folder of notes vanish."""
    (tmp_path / "whole").mkdir()
    run_job(job(out.format(tmp_path / "whole")), Embed())
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert len(files) >= 2
    left = 0

    def dies(act):
        def wrapped(*args, **named):
            nonlocal left
            left -= 1
            if not left:
                raise Killed
            return act(*args, **named)

        return wrapped

    monkeypatch.setattr(os, "replace", dies(os.replace))
    monkeypatch.setattr(module.shutil, "rmtree", dies(module.shutil.rmtree))
    for step in range(1, 30):
        folder, embed = tmp_path / f"{step}", Embed()
        folder.mkdir()
        left = step
        try:
            run_job(job(out.format(folder)), embed)
            break
        except Killed:
            run_job(job(out.format(folder)), embed)
        assert len(embed.calls) <= 7  # of six shards, one twice
        for path in files:
            if path.suffix != ".lock":
                assert (folder / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), (step, path)
        assert folder.joinpath(".e.npz.jaxrep-embed").exists() is False
    assert step > 12


def test_finished_job_is_not_repeated(tmp_path):
    for out in (tmp_path / "e.npz", f"npz:{tmp_path}/many"):
        first = run_job(job(out), Embed())
        again = Embed()
        assert run_job(job(out), again) == first and not again.calls


def test_shares_complete_the_job_in_any_order(tmp_path):
    run_job(job(f"npz:{tmp_path}/one"), Embed())
    three = job(f"npz:{tmp_path}/three")
    result = [run_job(three, Embed(), (number, 3)) for number in (2, 0)]
    assert [(one.rows, one.complete) for one in result] == [(3, False), (5, False)]
    assert not three.target.summary.exists()
    assert run_job(three, Embed(), (1, 3)).rows == 10
    for path in (*shards(tmp_path / "one"), tmp_path / "one/embedding.json"):
        assert (tmp_path / "three" / path.name).read_bytes() == path.read_bytes()
    more = job(f"npz:{tmp_path}/more")
    for number in range(8):  # more than there are shards
        result = run_job(more, Embed(), (number, 8))
    assert result.rows == 10 and len(shards(tmp_path / "more")) == 5


def test_other_job_is_refused_with_the_difference(tmp_path):
    for out in (tmp_path / "e.npz", f"npz:{tmp_path}/many"):
        run_job(job(out), Embed())
        with pytest.raises(
            UsageError, match=r"holds other embeddings or scores, by .*json: data\.path: 'x' -> 'y'; name"
        ):
            run_job(job(out, data={"path": "y"}), Embed())
    (tmp_path / "e.npz").unlink()  # then the name is free
    assert run_job(job(tmp_path / "e.npz", data={"path": "y"}), Embed()).rows == 10


def test_a_job_that_an_earlier_version_began_goes_on(tmp_path):
    """Its plan does not say of what the fields were read; one that says so is compared."""
    out = f"npz:{tmp_path}/many"
    run_job(job(out), Embed(), (0, 2))
    assert run_job(job(out, reads={"image": ".png"}), Embed(), (1, 2)).rows == 10
    other = f"npz:{tmp_path}/other"
    run_job(job(other, reads={"image": ".png"}), Embed(), (0, 2))
    with pytest.raises(UsageError, match=r"by .*plan\.json: reads\.image: '\.png' -> '\.jpg'; name another --out"):
        run_job(job(other, reads={"image": ".jpg"}), Embed(), (1, 2))


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "e.npz").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"e\.npz exists already, without .*e\.npz\.json, which would describe it"):
        run_job(job(tmp_path / "e.npz"), Embed())
    with pytest.raises(UsageError, match=r"is not empty \(e\.npz\): name an empty or a new folder"):
        run_job(job(f"npz:{tmp_path}"), Embed())
    assert (tmp_path / "e.npz").read_bytes() == b"mine"


def test_share_is_locked_by_one_process(tmp_path):
    one = job(f"npz:{tmp_path}/many")

    def embed(rows):
        with pytest.raises(UsageError, match=r"in use by process \d+ on .*: wait for its end, or .* by --out"):
            run_job(one, Embed())
        return Embed()(rows)

    assert run_job(one, embed).rows == 10


@pytest.mark.parametrize("out", ["e", "e.zip", "tar:e", "gs://e/e.npz", "npz:gs://e", "npz:", "none/e.npz", "."])
def test_wrong_out_is_refused(out):
    with pytest.raises(UsageError, match=r"^--out .*(is no local file that ends in \.npz|cannot be written: )"):
        parse_target(out)


@pytest.mark.parametrize("kind", ["link", "link to a folder", "broken link", "pipe", "folder"])
def test_out_that_is_no_regular_file_is_refused(tmp_path, kind):
    (tmp_path / "other.npz").write_bytes(b"other")
    out = tmp_path / "e.npz"
    match kind:
        case "pipe":
            os.mkfifo(out)
        case "folder":
            out.mkdir()
        case _:
            out.symlink_to({"link": "other.npz", "link to a folder": ".", "broken link": "none"}[kind])
    with pytest.raises(UsageError, match=r"^--out .*e\.npz cannot be written: it is a "):
        parse_target(str(out))
    assert (tmp_path / "other.npz").read_bytes() == b"other"


@pytest.mark.parametrize(
    "content", ["", "[]", "5", "{}", '{"rows": "x", "bad_samples": {}}', '{"rows": 3, "bad_samples": {}}']
)
def test_damaged_files_of_a_job_are_one_sentence(tmp_path, content):
    for out in (tmp_path / "e.npz", f"npz:{tmp_path}/many"):
        run_job(job(out), Embed())
    for path, out in (
        (tmp_path / "e.npz.json", tmp_path / "e.npz"),
        (tmp_path / "many/.jaxrep-embed/00001.json", f"npz:{tmp_path}/many"),
        (tmp_path / "many/.jaxrep-embed/plan.json", f"npz:{tmp_path}/many"),
    ):
        whole = path.read_bytes()
        path.write_text(content)
        with pytest.raises(UsageError, match=r"is damaged|holds other embeddings or scores"):
            run_job(job(out), Embed())
        path.write_bytes(whole)
