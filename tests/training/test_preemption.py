import os
import signal
import subprocess
import sys
import threading

import pytest

from jaxrep import signals
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.training.preemption import PreemptionHandler

SIGNALS = signals.SIGNALS
pytestmark = pytest.mark.usefixtures("signals_are_not_ignored")


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_only_noted(number, capfd):
    with PreemptionHandler() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert f"{signal.Signals(number).name}: finishing this step, then saving" in capfd.readouterr().err


@pytest.mark.parametrize("first", SIGNALS)
def test_a_ctrl_c_after_the_first_signal_leaves_at_once(first):
    with pytest.raises(KeyboardInterrupt), PreemptionHandler():
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("first", SIGNALS)
def test_a_repeated_sigterm_is_told_once_and_does_not_stop_the_saving(first, capfd):
    with PreemptionHandler() as stop:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.requested
    assert capfd.readouterr().err.count("saving") == 1


def test_the_handlers_from_before_come_back_also_after_an_error():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), PreemptionHandler():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_of_the_main_thread_nothing_is_installed():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def work():
        with PreemptionHandler() as stop:
            seen.append((stop.requested, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_killed_process_finishes_its_step_saves_and_says_preempted():
    program = (
        "import sys, time\n"
        "from jaxrep.runs.exit_codes import ExitCode\n"
        "from jaxrep.training.preemption import PreemptionHandler\n"
        "with PreemptionHandler() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.requested:\n"
        "        time.sleep(0.01)\n"
        "    print('saved', flush=True)\n"
        "sys.exit(ExitCode.PREEMPTED)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 75


def test_exit_statuses_are_told_apart_and_preempted_means_try_again():
    assert {status.name: int(status) for status in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "DIVERGED": 3,
        "PREEMPTED": os.EX_TEMPFAIL,
    }
