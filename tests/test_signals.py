"""Signals stop the program from its first line on, with a status on which a scheduler can act."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxrep import cli, signals

pytestmark = pytest.mark.usefixtures("signals_are_not_ignored")


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_signal_raises_at_once_and_handlers_come_back(number):
    before = [signal.getsignal(each) for each in signals.SIGNALS]
    with pytest.raises(signals.Stopped) as stopped, signals.stop_on_signals():
        signal.raise_signal(number)
    assert stopped.value.number == number and signals.received() is None
    assert [signal.getsignal(each) for each in signals.SIGNALS] == before


def test_dropped_exception_is_raised_again_by_check():
    class Dropper:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(signals.Stopped), signals.stop_on_signals():
        dropper = Dropper()
        del dropper  # an exception within a finalizer is printed and dropped
        assert signals.received() == signal.SIGTERM
        signals.check()


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.stop_on_signals():
            signal.raise_signal(signal.SIGHUP)
            assert signals.received() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_handle_nothing():
    seen = []

    def work():
        with signals.stop_on_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(
    ("args", "number", "status"),
    [
        (["train"], signal.SIGTERM, 75),
        (["train"], signal.SIGUSR1, 75),
        (["train"], signal.SIGINT, 130),
        (["embed"], signal.SIGHUP, 75),
        (["eval"], signal.SIGTERM, 143),
        (["eval"], signal.SIGINT, 130),
    ],
)
def test_exit_status_after_a_signal(args, number, status, monkeypatch, capsys):
    monkeypatch.setattr(cli, "run", lambda args: signal.raise_signal(number))
    assert cli.main(args) == status
    words = f"jaxrep: {number.name}: stopped; what is saved is kept, and the same command goes on from there\n"
    assert capsys.readouterr().err == (words if args != ["eval"] else "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_program_starts_stops_it(number, tmp_path):
    program = [sys.executable, "-m", "jaxrep.cli", "train", "clip:tiny", "--run-dir", str(tmp_path / "run")]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(1.0)
        os.kill(process.pid, number)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == (75 if number == signal.SIGTERM else 130), errors
    assert "Traceback" not in errors


def test_full_output_device_is_one_sentence():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "jaxrep.cli", "list"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 1
    assert ended.stderr == "jaxrep: error: standard output cannot be written: No space left on device\n"
