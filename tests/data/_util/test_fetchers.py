"""The most urgent read starts first, and closing ends all."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from jaxrep.data._util import fetchers
from jaxrep.data._util.fetchers import Fetchers


def test_urgent_reads_start_first_and_errors_reach_the_one_who_asks():
    reads, started, order = Fetchers(1, "reads"), threading.Event(), []
    reads.submit(0, lambda: started.wait(5))
    futures = [reads.submit(urgency, lambda urgency=urgency: order.append(urgency)) for urgency in (3, 1, 2)]
    failed = reads.submit(4, lambda: 1 // 0)
    started.set()
    for future in futures:
        future.result(5)
    assert order == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        failed.result(5)
    reads.close()


def test_closing_cancels_what_waits_and_ends_what_pauses():
    reads = Fetchers(2, "reads")
    pausing = [reads.submit(0, lambda: reads.pause(60)) for _ in range(2)]
    waiting = [reads.submit(1, lambda: None) for _ in range(5)]
    time.sleep(0.05)
    reads.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "reads"]
    for future in [*pausing, *waiting, reads.submit(0, lambda: None)]:
        with pytest.raises(CancelledError):
            future.result(0)


def test_a_store_that_does_not_answer_delays_the_end_for_a_bounded_time(monkeypatch):
    monkeypatch.setattr(fetchers, "CLOSE_SECONDS", 0.1)
    reads, answer = Fetchers(1, "reads"), threading.Event()
    reads.submit(0, lambda: answer.wait(5))
    time.sleep(0.05)
    start = time.monotonic()
    reads.close()
    assert time.monotonic() - start < 2
    answer.set()
