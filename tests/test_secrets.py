"""Passwords and tokens in URLs are in no message, file or report."""

import json
import logging

import jax
import pytest

from jaxrep import cli
from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import BadSample, JaxrepError, UsageError, printable, without_secrets
from jaxrep.runs import provenance
from jaxrep.runs.environment import environment
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec import difference, render_difference
from jaxrep.training.loop import train
from tests.helpers.harness import LOADED, RECIPE

URL = "http://user:hunter2@127.0.0.1:9/a/x-{0..3}.tar?token=sesame&b=1#part"
SHOWN = "http://127.0.0.1:9/a/x-{0..3}.tar?…"


def clean(text):
    return "hunter2" not in text and "sesame" not in text and "user:" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (URL, SHOWN),
        (f"{URL} cannot be read", f"{SHOWN} cannot be read"),
        (f"'{URL}': no such file; ({URL})", f"'{SHOWN}': no such file; ({SHOWN})"),
        (f"{URL}, {URL}: it is gone. See {URL}.", f"{SHOWN}, {SHOWN}: it is gone. See {SHOWN}."),
        (f'{{"path": "{URL}", "n": 1}}', f'{{"path": "{SHOWN}", "n": 1}}'),
        ("gs://bucket/a-*.tar and s3://key:p@ss@host/b", "gs://bucket/a-*.tar and s3://host/b"),
        ("simplecache::https://a:b@host/c?sig=d", "simplecache::https://host/c?…"),
        ("what? a@b.c: no URL; a://b", "what? a@b.c: no URL; a://b"),
    ],
)
def test_url_loses_its_secrets_alone(text, expected):
    assert without_secrets(text) == expected


def test_errors_messages_and_differences_show_no_secret():
    bad = BadSample(f"{URL}, member 3", f"{URL} does not answer")
    report = BadSampleReport(rows=3, bad={(bad.place, bad.reason): 2000}, examples=(str(bad),))
    with pytest.raises(JaxrepError) as stopped:
        report.check(0.01)
    one, other = (RECIPE.replace({"data.train": TarShards(shards=URL + end)}) for end in ("", "x"))
    for text in (
        str(UsageError(f"{URL} is wrong")),
        *(str(bad), bad.place, bad.reason),
        str(stopped.value),
        printable(f"see {URL}"),
        render_difference(difference(one, RECIPE)),
        json.dumps(provenance.record(one, RECIPE.data.tokenizer.load(["red"]))),
    ):
        assert clean(text) and "127.0.0.1:9/a/x-" in text
    provenance.check_files(provenance.record(one, RECIPE.data.tokenizer.load(["red"])), other, None, "a checkpoint")


def test_program_prints_no_secret(capsys, monkeypatch):
    for args in (["data", "inspect", f"tar:{URL}"], ["show", "clip:tiny", "--json", "--data.train", f"tar:{URL}"]):
        cli.main(args)
    logging.getLogger("jaxrep").info("reading %s", URL)

    def crash(args):
        raise ValueError(f"{URL} is odd")

    monkeypatch.setattr(cli, "run", crash)
    assert cli.main([]) == 1
    out, err = capsys.readouterr()
    assert "ValueError" in err and "127.0.0.1" in out and "127.0.0.1" in err
    assert clean(out) and clean(err)


def test_files_of_a_run_hold_no_secret(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["jaxrep", "train", "clip", "--data.train", f"tar:{URL}"])
    assert environment()["command"][-1] == f"tar:{SHOWN}"
    run = tmp_path / "run"
    train(RECIPE.replace(examples=8), run, LOADED, devices=jax.devices()[:1])
    RunDir(run).write_bad_samples(BadSampleReport(rows=3, bad={(URL, "gone"): 1}, examples=(URL,)))
    for path in run.rglob("*"):
        assert not path.is_file() or clean(path.read_bytes().decode(errors="replace")), path
