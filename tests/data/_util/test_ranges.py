"""Joined ranges cover all bytes, in fewer pieces, and none is cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from jaxrep.data._util.ranges import MAX_JOINED, join_ranges

RANGES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)).map(lambda x: (x[0], x[0] + x[1])), max_size=20)


@given(RANGES, st.integers(0, 30))
def test_every_range_lies_in_one_piece(ranges, gap):
    joined = join_ranges(ranges, gap)
    assert joined == sorted(joined)
    for start, end in ranges:
        assert any(first <= start and end <= last for first, last in joined)
    for (_, end), (start, _) in itertools.pairwise(joined):
        assert start - end > gap
    wanted = {byte for start, end in ranges for byte in range(start, end)}
    read = {byte for start, end in joined for byte in range(start, end)}
    assert len(read) <= len(wanted) + gap * max(len(ranges) - 1, 0)


def test_long_pieces_take_no_further_range():
    assert join_ranges([(0, MAX_JOINED), (MAX_JOINED, MAX_JOINED + 1)]) == [
        (0, MAX_JOINED),
        (MAX_JOINED, MAX_JOINED + 1),
    ]
