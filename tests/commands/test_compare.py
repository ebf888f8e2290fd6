"""``jaxrep compare`` prints and writes the table, and says what is wrong in one sentence."""

import json
import re

import numpy as np
import pytest

from jaxrep.metrics.sample import Sample
from tests.helpers import made_runs as made

HITS = np.arange(60) % 3


@pytest.fixture
def runs(tmp_path):
    most, some = Sample(HITS > 0), Sample(HITS > 1)
    return [
        made.run(tmp_path / "a", {"retrieval/r1": most, "zeroshot/top1": some}),
        made.run(tmp_path / "b", {"retrieval/r1": some, "zeroshot/top1": some}, {"method.dim": 3}),
    ]


def test_prints_rows_and_recipe_difference(runs, jaxrep_says):
    status, out, _ = jaxrep_says("compare", *runs)
    assert status == 0
    assert out.splitlines()[1].split()[:3] == ["retrieval/r1", "a", "0.6667"]
    assert out.splitlines()[2].split() == ["b", "0.3333", *out.splitlines()[2].split()[2:5], "-0.3333", "<", "0.001"]
    assert "a -> b:\nmethod.dim: " in out
    assert "p: paired permutation over examples; not corrected for the number of tests" in out


def test_runs_that_measure_other_data_are_told_apart(runs, jaxrep_says):
    for run, digest in zip(runs, ("one", "two"), strict=True):
        data = {"retrieval": {"data": {"examples": 60, "digest": digest}}, run.name: {"data": {"examples": 1}}}
        (run / "evaluation_data.json").write_text(json.dumps(data))
    _, out, _ = jaxrep_says("compare", *runs)
    told = "b is measured on other data than a:\nevaluation_data.retrieval.data.digest: 'one' -> 'two'\n"
    assert told in out
    (runs[1] / "evaluation_data.json").write_text((runs[0] / "evaluation_data.json").read_text())
    assert "other data" not in jaxrep_says("compare", *runs)[1]
    (runs[1] / "evaluation_data.json").write_text("[")
    status, _, err = jaxrep_says("compare", *runs)
    assert status == 2 and "evaluation_data.json is damaged" in err


def test_one_run_has_intervals(runs, jaxrep_says):
    _, out, _ = jaxrep_says("compare", runs[0])
    assert out.splitlines()[0].split() == ["metric", "mean", "95%", "interval", "or", "±", "SD"]


def test_table_file(runs, jaxrep_says, tmp_path):
    file = tmp_path / "table.json"
    assert jaxrep_says("compare", *runs, "--metrics", "zero*", "--out", file)[0] == 0
    assert [(row["metric"], row["group"], row["p"]) for row in json.loads(file.read_text())] == [
        ("zeroshot/top1", "a", None),
        ("zeroshot/top1", "b", 1.0),
    ]


def test_runs_without_samples_are_named(runs, jaxrep_says):
    (runs[1] / "samples.npz").unlink()
    _, out, _ = jaxrep_says("compare", *runs)
    assert "no intervals: b without values per example (samples.npz)" in out
    assert "no test: the values per example are not stored (retrieval/r1)" in out


def test_remote_runs_are_named_by_their_urls(runs, jaxrep_says, memory, tmp_path):
    for where, run in zip("ab", runs, strict=True):
        memory.put(str(run), f"/{where}/run", recursive=True)
    _, here, _ = jaxrep_says("compare", *runs)
    status, there, _ = jaxrep_says("compare", "memory://a/run", "memory://b/run")
    assert status == 0
    assert there.replace("a/run", "a").replace("b/run", "b").split() == here.split()
    for given, sentence in (
        ("memory://a/run", "memory://a/run is given twice"),
        ("memory://c/run", "memory://c/run is"),
    ):
        status, _, err = jaxrep_says("compare", "memory://a/run", given)
        assert status == 2 and err.startswith(f"jaxrep: error: {sentence}")
    page = tmp_path / "page.html"
    assert jaxrep_says("report", "memory://a/run", "memory://b/run", "--no-model", "--out", page)[0] == 0
    assert {"a/run", "b/run"} <= set(re.findall(r"[ab]/run", page.read_text()))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is not a run: it holds no recipe.json"),
        (["a", "young"], "young has no results yet (its last logged step is 3): run its command again"),
        (["a", "--metrics", "zero-shot"], "no metric is named 'zero-shot'; did you mean zeroshot/top1?"),
        (["a", "--out", "table.xls"], "--out table.xls has no known ending; "),
        (["a", "--out", "no/where.md"], "--out no/where.md cannot be written: there is no folder no"),
    ],
)
def test_wrong_arguments_are_one_sentence(runs, jaxrep_says, tmp_path, monkeypatch, arguments, sentence):
    made.run(tmp_path / "young", lines=[{"step": 3, "loss": 1.0}])
    monkeypatch.chdir(tmp_path)
    status, _, err = jaxrep_says("compare", *arguments)
    assert status == 2
    assert err.startswith("jaxrep: error: ") and sentence in err


HOSTILE = ["a[/bold]", "[link=x]b", "c\x1b[31m", "d\n\n| x |", "e|f`g`<script>", "\u202eh"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_escaped_on_a_terminal_and_in_markdown(jaxrep_says, tmp_path, name):
    run = made.run(tmp_path / f"run {name.replace('/', '')}", {name: Sample(HITS > 0), "plain": 0.5})
    file = tmp_path / "table.md"
    status, out, err = jaxrep_says("compare", run, made.run(tmp_path / "b", {name: 0.1}), "--out", file)
    assert status == 0 and "Traceback" not in err
    assert not set("\x1b\u202e") & set(out + file.read_text())
    shown = name.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e").replace("\n", "\\n")
    assert shown in out
    lines = file.read_text().splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in lines)  # the borders of six columns
    assert not re.search(r"(?<!\\)[<`]", "".join(line.split("|")[1] for line in lines))
