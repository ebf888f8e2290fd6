"""Order examples so that a batch holds texts of about one length: a batch of short texts needs no long padding.

The texts of a batch are padded to one of a few declared numbers of tokens, and the step is compiled once per number.
The number follows from the order and from the text lengths in a source's index, so it is the same on every host.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8, UInt64

from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.orders.base import Indices, Order, require_examples
from jaxrep.data.orders.permutation import epoch_keys, permute
from jaxrep.data.source import Examples
from jaxrep.spec import Count, spec


@spec
class ByLength(Order):
    """Read every example once per epoch, in batches of texts of one length bucket, in a random order of batches.

    Examples of a bucket that do not fill a batch join the next longer bucket. A batch across the border of two epochs
    has the length of the longest texts. In a mixture every batch has one source.
    """

    buckets: tuple[tuple[Count, Count], ...] = ((48, 16), (112, 32))
    """(bytes, tokens): texts of at most this many bytes get this many tokens; longer texts get the tokenizer's length.
    A text that needs more tokens than its bucket has is cut."""
    column: str = "text"
    """Text whose bytes choose the bucket, or a column of numbers that are used instead of bytes."""

    @property
    def text_lengths(self) -> tuple[int, ...]:
        return tuple(tokens for _, tokens in self.buckets)

    def block_size(self, batch_size: int) -> int:
        return batch_size

    def problems(self) -> Iterator[str]:
        steps = np.diff(((0, 2), *self.buckets), axis=0)
        if not self.buckets or not (steps > 0).all():
            yield f"buckets are (bytes, tokens) that both grow, with at least 3 tokens, not {self.buckets}"

    def indices(self, examples: Examples, batch_size: int) -> Indices:
        require_examples(examples)
        bucket = np.searchsorted([size for size, _ in self.buckets], examples.sizes(self.column)).astype(np.uint8)
        return ShuffledBuckets(self.seed, bucket, batch_size, (*self.text_lengths, 0))


class ShuffledBuckets(Indices):
    """Compute ``ByLength`` over the ``bucket`` [N] of each example.

    The examples are ranked by bucket, and at random within a bucket; runs of ``batch_size`` ranks are the batches, in a
    random order. The ranks that remain, the longest texts, lie where batches cross the ends of an epoch.
    """

    def __init__(self, seed: int, bucket: UInt8[np.ndarray, "N"], batch_size: int, text_lengths: tuple[int, ...]):
        """``text_lengths``: tokens per text of each bucket; 0: the length of the tokenizer."""
        self._seed, self._size, self._text_lengths = seed, np.uint64(batch_size), text_lengths
        self._length = np.uint64(len(bucket))
        by_bucket = np.argsort(bucket, kind="stable")
        self._rows = by_bucket.astype(np.uint32 if len(bucket) <= 2**32 else np.int64)  # bucket after bucket
        self._members = np.bincount(bucket, minlength=len(text_lengths)).astype(np.uint64)
        self._starts = np.cumsum(self._members) - self._members

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        ranks, keys = self._ranks(np.asarray(positions, np.uint64))
        bucket = self._bucket(ranks)
        member = permute(
            ranks - self._starts[bucket], self._members[bucket], splitmix64(keys + bucket.astype(np.uint64))
        )
        return self._rows[self._starts[bucket] + member].astype(np.int64)

    def text_length(self, position: int) -> int:
        start = np.uint64(position) // self._size * self._size
        ends = np.array([start, start + self._size - np.uint64(1)], np.uint64)
        first, last = ends // self._length
        longest = np.full(1, self._length - np.uint64(1)) if first != last else self._ranks(ends)[0][1:]
        return self._text_lengths[int(self._bucket(longest)[0])]

    def substitute(self, position: int, attempt: int) -> int:
        """Return an index of the same bucket, since the batch has no more tokens."""
        ranks, _ = self._ranks(np.array([position], np.uint64))
        bucket = self._bucket(ranks)
        drawn = splitmix64(splitmix64(np.array([position], np.uint64)) + np.uint64(attempt)) % self._members[bucket]
        return int(self._rows[self._starts[bucket] + drawn][0])

    def _bucket(self, ranks: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts + self._members, ranks, side="right")

    def _ranks(self, positions: UInt64[np.ndarray, "B"]) -> tuple[UInt64[np.ndarray, "B"], UInt64[np.ndarray, "B"]]:
        """Return the rank of the example at each position within its epoch, and the key of the epoch."""
        epochs, ranks = np.divmod(positions, self._length)
        keys = epoch_keys(self._seed, epochs)
        into = (positions - ranks) % self._size  # rows of the previous epoch in the batch across the epoch's start
        head = (self._size - into) % self._size  # places before the first batch that starts in the epoch
        runs = np.where(head < self._length, (self._length - head) // self._size, np.uint64(0))
        before = ranks < head
        run, within = np.divmod(ranks - head, self._size)
        inside = ~before & (run < runs)
        ranks[before] += (runs * self._size)[before]
        ranks[inside] = permute(run[inside], runs[inside], keys[inside]) * self._size + within[inside]
        return ranks, keys
