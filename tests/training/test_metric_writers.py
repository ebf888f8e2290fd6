"""Lines of metrics: one a logged step, each once, whatever happened to the run."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.training.metric_writers import JsonlWriter, MetricLogger, device_memory
from tests.helpers.harness import RECIPE

HOST = {"memory/process_peak_bytes": 1.0}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_after_the_step_that_is_restored_are_cut_and_a_half_written_one_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonlWriter(path, resumed_at=0)
    for step in (2, 4, 6, 8):
        first.write(step, {"loss": step / 2})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 9, "lo')
    JsonlWriter(path, resumed_at=6).close()
    assert lines(path) == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 2.0}, {"step": 6, "loss": 3.0}]
    again = JsonlWriter(path, resumed_at=4)
    again.write(6, {"loss": 30.0})
    again.close()
    assert lines(path)[2:] == [{"step": 6, "loss": 30.0}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "tail",
    ('{"step": 2, "lo', "17", "{}", "null", '{"step": 2}{"step": 3}', '{"step": "x"}', '{"step": [2]}', "[" * 9999),
)
def test_what_is_no_line_of_metrics_is_dropped_even_where_its_step_would_be_kept(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n\xca\xff\n' + tail.encode())
    JsonlWriter(path, resumed_at=5).close()
    assert lines(path) == [{"step": 1, "loss": 2.0}]


def test_numbers_that_are_not_finite_are_written_as_json_knows_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path, resumed_at=0)
    writer.write(1, {"loss": float("nan"), "norm": float("inf"), "rate": 0.5})
    assert lines(path) == [{"step": 1, "loss": None, "norm": None, "rate": 0.5}]  # a line is there at once
    writer.close()


def test_a_step_is_written_when_the_next_is_logged_and_the_last_one_at_the_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reporter = MetricLogger(RECIPE, tmp_path, 0, 10, main=True)
    reporter.log(2, {"loss": jnp.float32(3.0), "skipped": jnp.int32(0)}, HOST)
    assert (lines(path), reporter.latest) == ([], {})
    reporter.log(4, {"loss": jnp.float32(2.0), "skipped": jnp.int32(1)}, HOST)
    assert reporter.latest == {"loss": 3.0, "skipped": 0.0}
    reporter.add({"retrieval/r1": 0.25})
    reporter.close()
    assert [(line["step"], line["examples"], line["loss"]) for line in lines(path)] == [(2, 16.0, 3.0), (4, 32.0, 2.0)]
    assert [line.get("retrieval/r1") for line in lines(path)] == [None, 0.25]
    assert all(line["examples_per_second"] > 0 for line in lines(path))


def test_health_is_written_on_its_own_steps_and_not_where_a_step_is_logged_for_an_evaluation(tmp_path):
    reporter = MetricLogger(RECIPE, tmp_path, 0, 10, main=True)
    for step in (2, 3):  # every second step is logged
        reporter.log(step, {"loss": jnp.float32(3.0), "embeddings/image-text/alignment": jnp.float32(1.0)}, HOST)
    reporter.close()
    assert ["embeddings/image-text/alignment" in line for line in lines(tmp_path / "metrics.jsonl")] == [True, False]


def test_a_host_that_is_not_the_first_writes_nothing(tmp_path):
    reporter = MetricLogger(RECIPE, tmp_path, 0, 10, main=False)
    reporter.log(2, {"loss": jnp.float32(3.0)}, HOST)
    reporter.close()
    assert [*tmp_path.iterdir()] == []
    assert reporter.latest == {"loss": 3.0}


def test_memory_is_in_bytes():
    held = np.ones(2**24)  # 128 MiB
    assert device_memory()["memory/process_peak_bytes"] > held.nbytes
