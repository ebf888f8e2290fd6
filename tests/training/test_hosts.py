"""Several processes train one run as one process does: same losses, one run directory, one stop, one sentence."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrep import cli, hosts
from jaxrep.errors import UsageError
from jaxrep.runs.exit_codes import ExitCode
from tests.helpers.pages import one_device

ROOT = Path(__file__).parents[2]
SMALL = {
    "--method.towers.image.width": 32,
    "--method.towers.image.depth": 1,
    "--method.towers.image.heads": 4,
    "--method.towers.text.width": 32,
    "--method.towers.text.depth": 1,
    "--method.towers.text.heads": 4,
    "--method.dim": 16,
    "--mesh.min-shard-size": 64,
    "--data.batch-size": 16,
    "--checkpoint.every-steps": 4,
    "--log.every-steps": 1,
}
"""A CLIP of two blocks, each parameter split where it can be."""


def command(run_dir: Path, steps: int, **flags: object) -> list[str]:
    more = {f"--{name.replace('__', '.')}": value for name, value in flags.items()}
    given = {**SMALL, "--run-dir": run_dir, "--examples": 16 * steps, **more}
    words = [str(word) for pair in given.items() for word in pair]
    return [sys.executable, "-m", "jaxrep.cli", "train", "tests/helpers/processes.py", *words]


class Launched:
    """``processes`` processes with ``devices`` simulated devices each, that run the same command."""

    def __init__(
        self, words: list[str], processes: int, devices: int, logs: Path, last: tuple[str, ...] = (), **of_last: str
    ):
        """``last``: further words for the last process; ``of_last``: and its environment."""
        logs.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.logs = [logs / f"process-{number}.log" for number in range(processes)]
        self.all = []
        for number, log in enumerate(self.logs):
            env = {
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(number),
                **(of_last if number == processes - 1 else {}),
            }
            with log.open("w") as out:
                own = [*words, *(last if number == processes - 1 else ())]
                self.all.append(subprocess.Popen(own, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT))

    def wait(self, seconds: float = 400) -> list[int]:
        """Exit statuses; where one process fails the others, which wait for it, are ended after a moment in which they
        may leave for the same reason."""
        deadline = time.time() + seconds
        while (running := [p for p in self.all if p.poll() is None]) and time.time() < deadline:
            if any(p.poll() not in (None, 0, ExitCode.PREEMPTED, ExitCode.USAGE) for p in self.all):
                deadline = min(deadline, time.time() + 5)
            time.sleep(0.1)
        for process in running:
            process.kill()
        return [process.wait() for process in self.all]

    def said(self) -> list[str]:
        return [log.read_text() for log in self.logs]


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in lines(run_dir)]


STEPS = 20
TOLERANCE = 2e-3
"""Sums over devices are taken in another order; Adam divides by small second moments, so that rounding of 1e-7 grows to
about 1e-4 of the loss within twenty steps; a wrong row or gradient shows in the first digits."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with one device."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    go_on_alone(run_dir)
    return run_dir


def go_on_alone(run_dir: Path) -> None:
    """Train in this process, on one of its devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        one_device(patch)
        assert cli.main(command(run_dir, STEPS)[3:]) == ExitCode.DONE


def until_saved(launched: Launched, run_dir: Path, step: int) -> None:
    deadline = time.time() + 400
    while not (run_dir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").exists():
        assert time.time() < deadline and all(p.poll() is None for p in launched.all), launched.said()
        time.sleep(0.05)


def same_evaluation(found: dict[str, float], expected: dict[str, float]) -> None:
    """Of one step: the same rows in the same order, and metrics but for near ties."""
    for kind in ("read", "pixels"):
        for name in ("rows", "ids", "texts"):
            assert found[f"{kind}/{name}"] == expected[f"{kind}/{name}"]
    assert found["pixels/images"] == pytest.approx(expected["pixels/images"], rel=1e-6)  # scaled in float32
    # A sum of 1,600 numbers of unit rows with random weights, of weights that differ by ``TOLERANCE`` at most; the
    # rows in another order change it by about 10.
    assert found["read/images"] == pytest.approx(expected["read/images"], abs=0.1)
    for name, value in expected.items():
        if name.startswith("retrieval/") and "rank" not in name:
            assert found[name] == pytest.approx(value, abs=0.02), name


def same_run(found: Path, expected: Path) -> None:
    """Every step once, with the same losses; and the same results."""
    one, other = losses(found), losses(expected)
    assert len(one) == len(other) == STEPS
    assert one == pytest.approx(other, rel=TOLERANCE)
    same_evaluation(*(json.loads((run_dir / "results.json").read_text()) for run_dir in (found, expected)))


def test_two_processes_train_as_one_stop_together_and_go_on_as_one(reference, tmp_path):
    """``fsdp`` lies across the processes; SIGTERM to the second makes both save one step; one process goes on. In an
    evaluation each process reads its half of the pictures, and has the metrics of all."""
    run_dir = tmp_path / "run"
    both = Launched(command(run_dir, STEPS, mesh__fsdp=2, mesh__tensor=2), 2, 2, tmp_path / "logs")
    until_saved(both, run_dir, 4)
    both.all[1].send_signal(signal.SIGTERM)
    assert both.wait() == [ExitCode.PREEMPTED, ExitCode.PREEMPTED], both.said()
    assert "run the same command" in both.said()[0]
    assert 4 <= len(losses(run_dir)) < STEPS
    same_evaluation(lines(run_dir)[3], lines(reference)[3])
    for said in both.said():
        assert set(re.findall(r"read \d+ of \d+ pictures", said)) == {"read 50 of 100 pictures"}, both.said()
    go_on_alone(run_dir)
    same_run(run_dir, reference)


def test_processes_with_different_recipes_are_told_so_and_none_hangs(tmp_path):
    words = command(tmp_path / "run", STEPS)
    both = Launched(words, 2, 1, tmp_path / "logs", last=("--seed", "7"))
    assert both.wait(120) == [ExitCode.USAGE, ExitCode.USAGE], both.said()
    for said in both.said():
        assert "seed is 0 in process 0 and 7 in process 1" in said and "Traceback" not in said


def test_what_one_process_cannot_do_ends_all_with_its_sentence(tmp_path):
    words = command(tmp_path / "run", STEPS)
    (tmp_path / "sitecustomize.py").write_text(
        "import jaxrep.disk_cache\n"
        "from jaxrep.errors import UsageError\n"
        "def refuse(*_): raise UsageError('the pictures cannot be drawn')\n"
        "jaxrep.disk_cache.cached = refuse\n"
    )
    both = Launched(words, 2, 1, tmp_path / "logs", PYTHONPATH=str(tmp_path))
    assert both.wait(120) == [ExitCode.USAGE, ExitCode.USAGE], both.said()
    assert "process 1 of 2 could not go on: the pictures cannot be drawn" in both.said()[0]


LOST = """
import os
from jaxrep.data.loading import reader
from jaxrep.data.source import BadShard

reader.RETRY_WAITS = ()

class Shards(Examples):
    def __init__(self, inner):
        self.inner = inner
    def __len__(self):
        return len(self.inner)
    def shard(self, index):
        return f"{index // 8}.tar"
    def column(self, name):
        return self.inner.column(name)
    def __getitem__(self, index):
        if index // 8 == 2 and os.environ.get("GONE"):
            raise BadShard("2.tar does not answer")
        return self.inner[index]

@spec
class InShards(Named):
    def open(self):
        return Shards(super().open())

recipe = recipe.replace({"data.train": InShards(), "checkpoint.every_steps": 1000}, examples=8 * 2000)
"""
"""The tiny recipe, in four shards, one of which some processes cannot read."""


@pytest.mark.slow
def test_a_shard_that_one_process_cannot_read_stops_all_with_its_sentence_and_the_step_is_saved(tmp_path):
    (tmp_path / "lost.py").write_text((ROOT / "tests" / "helpers" / "tiny.py").read_text() + LOST)
    run_dir = tmp_path / "run"
    words = [sys.executable, "-m", "jaxrep.cli", "train", f"{tmp_path}/lost.py:recipe", "--run-dir", str(run_dir)]
    both = Launched(words, 2, 1, tmp_path / "logs", GONE="1")
    assert len(set(both.wait())) == 1, both.said()
    for said in both.said():
        assert "2.tar does not answer; it was tried 1 times. Bring the shard back" in said, both.said()
        assert "Traceback" not in said
    (saved,) = (run_dir / "checkpoints").glob("[0-9]*")
    assert 1 <= int(saved.name) < 1000
    report = json.loads((run_dir / "bad_samples.json").read_text())
    assert report["bad"] > 0 and report["skipped_shards"] == [] and report["all"] == 8 * int(saved.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "split"),
    (
        (2, {"mesh__fsdp": 2}),
        (2, {"mesh__fsdp": 1, "mesh__tensor": 4}),
        (4, {"mesh__fsdp": 2, "mesh__tensor": 2}),
        (4, {"mesh__fsdp": 4, "mesh__tensor": 1}),
        (4, {"mesh__fsdp": 1, "mesh__tensor": 4}),
    ),
)
def test_any_split_killed_and_resumed_on_another(reference, tmp_path, processes, split):
    """One process is killed: its peers, which wait for it, are ended as a launcher does; two processes go on."""
    run_dir = tmp_path / "run"
    first = Launched(command(run_dir, STEPS, **split), processes, 2, tmp_path / "logs")
    until_saved(first, run_dir, 8)
    first.all[-1].kill()
    assert first.wait()[-1] == -signal.SIGKILL
    again = Launched(command(run_dir, STEPS, mesh__fsdp=2), 2, 1, tmp_path / "again")
    assert again.wait() == [ExitCode.DONE, ExitCode.DONE], again.said()
    same_run(run_dir, reference)


@pytest.mark.parametrize(
    ("more", "listens"),
    (({}, "10.0.0.7:99"), ({hosts.LISTEN: "0.0.0.0:99"}, "0.0.0.0:99"), ({hosts.LISTEN: ""}, "10.0.0.7:99")),
)
def test_coordinator_listens_at_its_address_alone(monkeypatch, more, listens):
    called = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *args, **named: called.append((args, named)))
    hosts.initialize({hosts.ADDRESS: "10.0.0.7:99", hosts.COUNT: "2", hosts.NUMBER: "1", **more})
    assert called == [(("10.0.0.7:99", 2, 1), {"coordinator_bind_address": listens})]


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1:99", "127.0.0.1:99"),
        ("[::1]:99", "[::1]:99"),
        ("mine:99", "192.168.7.7:99"),
        ("debian:99", None),  # the name of the machine itself, as it alone resolves it
        ("elsewhere:99", None),
        ("nowhere:99", None),
    ],
)
def test_coordinator_of_a_cluster_listens_at_an_address_of_its_machine(monkeypatch, address, own):
    names = {"mine": "192.168.7.7", "debian": "127.0.1.1", "elsewhere": "192.0.2.1", "127.0.0.1": "127.0.0.1"}

    def resolve(name, port, **named):
        if name == "::1":
            return [(socket.AF_INET6, 1, 6, "", ("::1", port, 0, 0))]
        if name not in names:
            raise socket.gaierror(f"{name} is not known")
        return [(socket.AF_INET, 1, 6, "", (names[name], port))]

    def bind(self, place):
        if place[0] == "192.0.2.1":
            raise OSError("cannot assign the address")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "socket", type("Socket", (socket.socket,), {"bind": bind}))
    assert hosts.own_address(address) == own


CLUSTER = """
import os, socket
from jaxrep import hosts
hosts.initialize()
port = hosts.distributed.global_state.coordinator_address.rpartition(":")[2]
for address in ("127.0.0.1", "127.0.0.2"):
    with socket.socket() as other:
        print(address, other.connect_ex((address, int(port))) == 0)
"""


@pytest.mark.parametrize(("more", "open_to_all"), [({}, False), ({hosts.LISTEN: "[::]:{port}"}, True)])
def test_coordinator_of_slurm_does_not_listen_on_all_interfaces(more, open_to_all):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slurm = {"JOB_ID": "1", "STEP_NODELIST": "127.0.0.1", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    env = {f"SLURM_{name}": value for name, value in slurm.items()} | {"JAX_COORDINATOR_PORT": str(port)}
    env |= {hosts.AUTO: "auto", **{name: value.format(port=port) for name, value in more.items()}}
    done = subprocess.run([sys.executable, "-c", CLUSTER], env={**os.environ, **env}, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["127.0.0.1 True", f"127.0.0.2 {open_to_all}"], done.stderr


def test_auto_without_a_cluster_is_one_sentence():
    with pytest.raises(UsageError, match="JAXREP_HOSTS=auto, and JAX finds no cluster here"):
        hosts.initialize({hosts.AUTO: "auto"})


@pytest.mark.parametrize("name", ("pickle", "cloudpickle", "dill", "marshal", "shelve"))
def test_hosts_exchange_no_pickles(name):
    hosts, npy = ((ROOT / "jaxrep" / module).read_text() for module in ("hosts.py", "npy.py"))
    assert f"import {name}" not in hosts + npy  # what is sent is read by npy.py, which refuses objects
    assert hosts.count("allow_pickle=False") == hosts.count("allow_pickle") == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    (
        ({hosts.COUNT: "2"}, "JAX_NUM_PROCESSES is set, but not JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"),
        ({hosts.ADDRESS: "a:1", hosts.COUNT: "2", hosts.NUMBER: "2"}, "numbered from 0"),
        ({hosts.ADDRESS: "a:1", hosts.COUNT: "two", hosts.NUMBER: "0"}, "counted from 1"),
    ),
)
def test_a_launcher_that_says_half_of_it_is_refused(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        hosts.initialize(given)
