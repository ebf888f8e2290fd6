"""``jaxrep bench``: combinations in processes of their own, kept in a file."""

import json

import pytest

from jaxrep.cli import main
from jaxrep.commands import bench
from jaxrep.data.fields import batch_fields
from jaxrep.training.step_bench import measure_step, synthetic_batch
from tests.helpers.harness import LOADED, RECIPE

TINY = str(LOADED.path)


def test_step_is_measured_without_data(monkeypatch):
    monkeypatch.setattr(type(RECIPE.data.train), "open", lambda self: pytest.fail("data were opened"))
    found = measure_step(RECIPE, steps=2)
    assert found["examples_per_second"] == 8 / found["step_seconds"] and found["devices"] >= 1
    assert 0 < found["seconds_to_compile"] < found["seconds_to_first_step"]


def test_synthetic_batch_has_the_shapes_and_classes_of_the_fields():
    fields = batch_fields(RECIPE.data.train, RECIPE.data.tokenizer, RECIPE.data.texts)
    batch = synthetic_batch(fields, 8)
    assert {name: (values.shape, str(values.dtype)) for name, values in batch.items()} == {
        name: ((8, *field.shape), field.dtype) for name, field in fields.items()
    }
    assert batch["text"].max() < fields["text"].classes and batch["text/valid"].all()
    assert len({*batch["image_id"].tolist()}) == 8


def bench_in_this_process(monkeypatch) -> list[list[str]]:
    """Replace the process of a combination; return the flags of those that were measured."""
    measured = []

    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, work, target, flags, *rest):
            measured.append(flags)
            if "64" in flags:
                raise MemoryError("RESOURCE_EXHAUSTED: out of memory\nmore lines")
            return type(
                "Done", (), {"result": lambda self: {"step_seconds": 0.5, "examples_per_second_per_device": 16.0}}
            )()

    monkeypatch.setattr(bench, "process_pool", lambda workers: Pool())
    return measured


def test_combinations_are_kept_and_not_measured_again(monkeypatch, tmp_path, capsys):
    measured, out = bench_in_this_process(monkeypatch), tmp_path / "steps.jsonl"
    command = ["bench", TINY, "--vary", "data.batch-size=8,16", "--vary", "seed=0,1", "--out", str(out)]
    assert main(command) == 0
    assert measured == [["--data.batch-size", b, "--seed", s] for b in ("8", "16") for s in ("0", "1")]
    assert [json.loads(line)["vary"]["seed"] for line in out.read_text().splitlines()] == ["0", "1", "0", "1"]
    assert "16.0" in capsys.readouterr().out
    out.write_text("\n".join(out.read_text().splitlines()[:3]) + '\n{"cut')  # killed while it wrote the fourth
    assert main(command) == 0
    assert len(measured) == 5 and len(out.read_text().splitlines()) == 4
    assert main([*command, "--steps", "3"]) == 0
    assert len(measured) == 9


def test_combination_that_fails_ends_no_other(monkeypatch, tmp_path, capsys):
    bench_in_this_process(monkeypatch)
    out = tmp_path / "steps.jsonl"
    assert main(["bench", TINY, "--vary", "data.batch-size=64,16", "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "--data.batch-size 64 cannot be measured: RESOURCE_EXHAUSTED: out of memory" in printed and "16.0" in printed
    assert len(out.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--vary", "data.batch_size"], "expected PATH=A,B"),
        (["--vary", "seed=1,2", "--vary", "seed=3"], "--vary names seed twice"),
        (["--vary", "data.bach-size=8"], "data.bach-size"),
        (["--steps", "0"], "expected a whole number"),
    ],
)
def test_wrong_arguments_are_one_sentence_before_anything_is_measured(monkeypatch, capsys, arguments, sentence):
    measured = bench_in_this_process(monkeypatch)
    try:
        status = main(["bench", TINY, *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2 and measured == [] and sentence in "".join(capsys.readouterr())


@pytest.mark.slow
def test_command_measures_in_processes_of_their_own(capsys):
    assert main(["bench", TINY, "--steps", "1", "--vary", "data.batch-size=8,16", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["vary"]["data.batch_size"] for row in rows] == ["8", "16"]
    assert all(row["step_seconds"] > 0 for row in rows)
