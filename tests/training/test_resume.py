"""A run that is killed goes on with the same numbers; one that is interrupted saves and says how to go on."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxrep.errors import JaxrepError
from jaxrep.experiment import load
from jaxrep.training.loop import train
from tests.training.test_hosts import SMALL

ROOT = Path(__file__).parents[2]
STEPS = 60
READS = {"data/requests", "data/bytes_read", "data/cache_hits"}
CLOCKS = {"examples_per_second", "data_wait", "checkpoint_wait", "memory/process_peak_bytes"} | READS
"""What a clock or the operating system says, and what was read ahead by then; all other metrics are exact."""


def command(run_dir: Path) -> list[str]:
    """Trains a small CLIP for a few batches."""
    flags = {**SMALL, "--run-dir": run_dir, "--examples": 16 * STEPS, "--checkpoint.every-steps": 6}
    words = [str(word) for pair in flags.items() for word in pair]
    return [sys.executable, "-m", "jaxrep.cli", "train", "clip:tiny", *words]


def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One device, quick compilation, and compiled functions shared between the processes of this test."""
    compiled = tmp_path_factory.getbasetemp() / "compiled-runs"
    return {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
    }


def metrics(run_dir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    subprocess.run(command(folder), cwd=ROOT, env=environment(tmp_path_factory), check=True, capture_output=True)
    return folder


def saved(run_dir: Path) -> int:
    """The last step with a whole checkpoint, or 0."""
    names = [file.parent.name for file in run_dir.glob("checkpoints/*/_CHECKPOINT_METADATA")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def start_and_signal(
    run_dir: Path, kind: signal.Signals, env: dict[str, str], words: list[str] | None = None
) -> tuple[int, str]:
    """Sends a signal once a checkpoint is added and later steps are under way; exit status, what was said."""
    before = saved(run_dir)
    process = subprocess.Popen(
        words or command(run_dir),
        cwd=ROOT if words is None else run_dir.parent,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.time() + 300
    while saved(run_dir) <= before:
        assert process.poll() is None and time.time() < deadline, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(kind)
    said = process.communicate(timeout=300)[0]
    return process.returncode, said


def test_a_run_that_is_killed_and_stopped_goes_on_with_the_same_numbers(unbroken, tmp_path, tmp_path_factory):
    """Killed at any moment; then SIGTERM saves the step and says how to go on; then on under another execution."""
    env = environment(tmp_path_factory)
    run_dir = tmp_path / "run"
    status, _ = start_and_signal(run_dir, signal.SIGKILL, env)
    assert status == -signal.SIGKILL and not (run_dir / "results.json").exists()
    status, said = start_and_signal(run_dir, signal.SIGTERM, env)
    assert status == 75, said
    assert "resuming from step" in said and "run the same command" in said and "Traceback" not in said
    assert saved(run_dir) < STEPS
    words = [*command(run_dir), "--checkpoint.every-steps", "9"]
    again = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "resuming from step" in again.stderr and "checkpoint.every_steps: 6 -> 9" in again.stderr
    assert metrics(run_dir) == metrics(unbroken)
    assert (run_dir / "results.json").read_text() == (unbroken / "results.json").read_text()


def test_another_recipe_in_the_same_directory_is_refused(unbroken, jaxrep_says, monkeypatch):
    monkeypatch.chdir(ROOT)
    status, _, said = jaxrep_says(*command(unbroken)[3:], "--seed", "5")
    assert status == 2
    assert "seed: 0 -> 5" in said and "--run-dir" in said and "Traceback" not in said


def write_tars(folder: Path) -> None:
    """Two sources of two shards of twelve pairs; in each shard a picture is damaged and a caption is missing."""
    rng, words = np.random.default_rng(0), ("red", "green", "blue", "small", "large", "round", "flat", "old")
    for shard in ("a-0", "a-1", "b-0", "b-1"):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(12):
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (9, 10, 3), dtype=np.uint8)).save(file, "PNG")
                picture = file.getvalue()[: 40 if number == 5 else None]
                text = f"{words[number % 8]} {rng.choice(words)}".encode()
                for name, content in (("png", picture), ("txt", text)):
                    if (name, number) != ("txt", 9):
                        member = tarfile.TarInfo(f"{shard}{number}.{name}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))


@pytest.mark.slow
def test_a_mixture_of_tars_goes_on_after_a_kill_with_other_workers(tmp_path, tmp_path_factory):
    write_tars(tmp_path)
    env = environment(tmp_path_factory) | {"PYTHONPATH": str(ROOT), "JAXREP_CACHE": str(tmp_path / "cache")}
    runs = [tmp_path / "unbroken", tmp_path / "killed"]
    unbroken, killed = (
        [sys.executable, "-m", "jaxrep.cli", "train", f"{ROOT}/tests/helpers/tiny.py:mixed", "--run-dir", str(run)]
        for run in runs
    )
    subprocess.run(unbroken, cwd=tmp_path, env=env, check=True, capture_output=True)
    start_and_signal(runs[1], signal.SIGKILL, env, killed)
    assert not (runs[1] / "results.json").exists()
    again = subprocess.run(
        [*killed, "--data.workers", "1"], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    )
    assert "resuming from step" in again.stderr
    assert metrics(runs[1]) == metrics(runs[0])
    reports = [json.loads((run / "bad_samples.json").read_text()) for run in runs]
    assert reports[0] == reports[1] and reports[0]["seen"] + reports[0]["bad"] == reports[0]["all"] == 3_200
    kinds = {reason for shard in reports[0]["shards"].values() for reason in shard}
    assert len(reports[0]["shards"]) == 4 and "it has no member .txt" in kinds and len(kinds) == 2
    for run in runs:  # the second reads in a worker process at last
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1].keys() >= READS and sum(line["data/bytes_read"] for line in lines) > 0
    last = metrics(runs[0])[-1]
    assert last["data/bad"] == reports[0]["bad"] and last["data/share/a"] + last["data/share/b"] == 1


def test_run_stopped_by_bad_samples_writes_the_report(tmp_path, monkeypatch):
    write_tars(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path / "cache"))
    recipe = load(f"{ROOT}/tests/helpers/tiny.py:mixed").recipe.replace({"data.max_bad_fraction": 0.01})
    with pytest.raises(JaxrepError, match=r"11 of \d+ examples could not be read.*The worst: a: .*a-\d.tar"):
        train(recipe, tmp_path / "run", devices=jax.devices()[:1])
    report = json.loads((tmp_path / "run" / "bad_samples.json").read_text())
    assert report["bad"] == 11 and report["seen"] + 11 == report["all"] and len(report["examples"]) == 11
