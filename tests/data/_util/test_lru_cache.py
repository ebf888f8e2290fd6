"""Values are made once for all threads that ask at the same time, and the last used ones stay."""

import pickle
import threading
import time

import pytest

from jaxrep.data._util.lru_cache import LruCache


def test_the_last_used_values_stay_within_the_capacity():
    cache = LruCache[str](5, len)
    for key in ("aa", "bb", "aa", "ccc"):
        cache.get(key, lambda key=key: key)
    assert len(cache) == 2
    assert cache.get("aa", lambda: "made") == "aa" and cache.get("bb", lambda: "made") == "made"
    assert cache.get("large", lambda: "x" * 9) == "x" * 9 and len(cache) == 1  # the last one always


def test_threads_that_ask_at_the_same_time_share_one_value():
    cache, made, got = LruCache[object](2), [], []

    def make():
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    threads = [threading.Thread(target=lambda: got.append(cache.get("key", make))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and got == made * 6


def test_after_an_error_the_next_thread_makes_the_value():
    cache, tries, errors = LruCache[int](2), [], []

    def make():
        tries.append(len(tries))
        time.sleep(0.02)
        if len(tries) == 1:
            raise OSError("once")
        return 7

    def ask():
        try:
            assert cache.get("key", make) == 7
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tries) == 2 and len(errors) == 1
    with pytest.raises(ZeroDivisionError):
        cache.get("other", lambda: 1 // 0)
    assert len(pickle.loads(pickle.dumps(cache))) == 0
