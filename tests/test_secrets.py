"""Passwords and tokens in URLs are in no message, file or report."""

import json
import logging

import jax
import pytest

from jaxrep import cli
from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tools import convert, curate
from jaxrep.errors import BadSample, JaxrepError, UsageError, printable, secret_in, without_secrets
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.recipe import From
from jaxrep.runs import provenance
from jaxrep.runs.environment import environment
from jaxrep.runs.remote import fetch_run
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
        (f"HF_TOKEN=hf_{'aB3' * 11}x, 'hf_oauth_{'aB3' * 11}.x-y'", "HF_TOKEN=hf_…, 'hf_…'"),
        ("hf://org/name@main/hf_folder and hf_hub_download", "hf://org/name@main/hf_folder and hf_hub_download"),
    ],
)
def test_url_loses_its_secrets_alone(text, expected):
    assert without_secrets(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (URL, "a password"),
        ("https://token@host/a.tar", "a password"),
        ("simplecache::s3://key:p@ss@host/b", "a password"),
        ("https://host/a.tar?X-Amz-Signature=1", "a query"),
        (f"hf://org/name@hf_{'aB3' * 11}", "a token of a hub"),
        *((text, "") for text in ("gs://bucket/a-0?.tar", "sftp://user@host/a", "hf://org/name@main", "a {}?", "")),
    ],
)
def test_secrets_are_found(text, found):
    assert secret_in(text) == found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.train", TarShards(shards=URL)),
        ("init", {"text": From(URL)}),
        ("evals", (Retrieval(data=TarShards(shards=(URL, "a.tar"))),)),
    ],
)
def test_recipe_with_a_secret_is_refused_before_anything_is_written(tmp_path, path, value):
    """``recipe.json`` keeps a recipe whole, so that a run can be repeated."""
    with pytest.raises(
        UsageError, match=rf"{path}.* with a password, and a run keeps its recipe .*FSSPEC_HTTPS"
    ) as told:
        train(RECIPE.replace({path: value}), tmp_path / "run", LOADED, devices=jax.devices()[:1])
    assert clean(str(told.value)) and not (tmp_path / "run").exists()


def test_run_behind_a_url_with_a_secret_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path))
    for use in (fetch_run, RunDir.at):
        with pytest.raises(UsageError, match="is given with a password, which would be kept on disk") as told:
            use("https://user:hunter2@127.0.0.1:9/run")
        assert clean(str(told.value))
    assert all(clean(path.read_text()) for path in tmp_path.rglob("*") if path.is_file())


def test_plans_of_jobs_hold_no_secret(tmp_path):
    source = TarShards(shards=URL)
    kept = [
        convert.Plan(source, "tar", tmp_path, per_shard=1, length=1).to_json(),
        curate.Plan(source, (), "", t=1, seed=0, per_chunk=1, length=1, entries=1, digest="").to_json(),
    ]
    for plan in kept:
        assert clean(json.dumps(plan)) and "127.0.0.1" in json.dumps(plan)


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
