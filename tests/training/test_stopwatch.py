"""Where the time of a run goes: seconds by part until the first step, and shares of the whole."""

import subprocess
import sys
import time

import jax

from jaxrep.runs.exit_codes import ExitCode
from jaxrep.training import stopwatch
from jaxrep.training.loop import train
from jaxrep.training.stopwatch import STEPS, WAIT, Stopwatch
from tests.helpers.harness import RECIPE, logged


def test_parts_of_the_start_and_shares_of_the_whole_add_up(monkeypatch):
    clock = iter([10.0, 12.5, 13.0, 17.0, 18.0, 24.0])
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: next(clock))
    watch = Stopwatch(launched=8.0)
    for part in ("imports", "data", "tracing", "data"):
        watch.lap(part)
    assert watch.start == {"imports": 2.0, "data": 6.5, "tracing": 0.5}
    assert watch.first_step() == "the first step begins 9.0 s after the launch: imports 2.0, data 6.5, tracing 0.5"
    watch.lap(WAIT)
    watch.lap(STEPS)
    assert watch.summary() == "of 16.0 s since the launch: steps 37.5%, start-up 56.2%, waiting for data 6.2%"


def test_the_launch_of_a_process_is_known_also_after_it_replaced_itself():
    again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    said = "from jaxrep.training.stopwatch import launch_of_process as launch; print(launch())"
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", again, f"import time; time.sleep(0.5); {said}"], capture_output=True)
    assert before - 0.05 < float(done.stdout) < time.monotonic() - 0.5


def test_a_run_says_where_its_time_goes_and_saves_by_the_clock(tmp_path):
    recipe = RECIPE.replace({"checkpoint.every_minutes": 1e-9, "checkpoint.keep": 9}, examples=3 * 8)
    with logged() as messages:
        assert train(recipe, tmp_path / "run", devices=jax.devices()[:1]) is ExitCode.DONE
    (first,) = [text for text in messages if text.startswith("the first step begins")]
    assert all(f"{part} " in first for part in ("data", "tracing", "compiling", "restore"))
    (last,) = [text for text in messages if "since the launch: steps" in text]
    assert all(f"{part} " in last for part in ("start-up", "waiting for data", "evaluations", "checkpoints"))
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"1", "2", "3"}
