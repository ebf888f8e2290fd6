"""Use huge memory pages; without them a step on CPUs loses a quarter of its time to page faults."""

import contextlib
import os
import sys

TUNABLE = "glibc.malloc.hugetlb=1"
"""Makes glibc request transparent huge pages (2 MiB); other C libraries ignore it."""


def with_large_pages() -> None:
    """Start the same command again with the tunable set, since glibc reads it once, when a process starts.

    Nothing happens if GLIBC_TUNABLES is set already, or outside Linux.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or not sys.orig_argv:
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLE
    with contextlib.suppress(OSError):  # this user may not start the interpreter again: go on without
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
