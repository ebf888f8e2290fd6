"""Join ranges of a file that lie near each other, so that one request reads what several would."""

from collections.abc import Iterable

Range = tuple[int, int]
"""First byte, and the byte after the last one."""

GAP = 64 * 1024
"""Most bytes between two ranges that are read with them: fewer than a store sends in the time of another request."""
MAX_JOINED = 8 * 2**20
"""Bytes from which on a range takes no further one."""


def join_ranges(ranges: Iterable[Range], gap: int = GAP) -> list[Range]:
    """Return ascending ranges that cover ``ranges``; those with at most ``gap`` bytes between them are one."""
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if joined and start - joined[-1][1] <= gap and joined[-1][1] - joined[-1][0] < MAX_JOINED:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
