"""A silence between two steps is told once, with the stacks of all threads."""

import contextlib
import time

from jaxrep.training.watchdog import Watchdog


def test_a_hang_is_told_once_and_the_next_one_again(capfd):
    with contextlib.closing(Watchdog(0.2)) as watchdog:
        time.sleep(0.5)  # the first step compiles
        assert capfd.readouterr().err == ""
        for step in (1, 2):
            watchdog.step_ended(step)
            time.sleep(0.8)
            err = capfd.readouterr().err
            assert err.count("no step has ended for 0.2 s") == 1 and f"since step {step};" in err
            assert "test_watchdog.py" in err  # where this thread is


def test_steps_in_time_are_not_mentioned_and_zero_is_never(capfd):
    with contextlib.closing(Watchdog(0.6)) as watchdog, contextlib.closing(Watchdog(0)) as never:
        never.step_ended(1)
        for step in range(8):
            watchdog.step_ended(step)
            time.sleep(0.1)
    assert capfd.readouterr().err == ""
