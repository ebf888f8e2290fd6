"""An order whose batches hold texts of about one length, so that a batch of short texts needs no long padding.

A batch's texts are padded to one of a few declared numbers of tokens, and the step is compiled once for each. Which one
follows from the order and from the lengths that the index of a source knows, so it is the same on every host.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8, UInt64

from jaxrep.data.orders.base import Indexed, Indices, Order, epoch_keys, mix, permute, some
from jaxrep.spec import spec


@spec
class ByLength(Order):
    """Every example once an epoch, in batches of texts of one bucket of length, which follow each other at random.

    What of a bucket fills no batch joins the next longer bucket. A batch over the border of two epochs is as long as
    the longest texts. In a mixture every batch is of one source.
    """

    buckets: tuple[tuple[int, int], ...] = ((48, 16), (112, 32))
    """(bytes, tokens): texts of at most so many bytes are given so many tokens; what is longer, the tokenizer's length.
    A text that needs more tokens than its bucket has is cut, as any that is too long."""
    column: str = "text"
    """The text by which examples are put in buckets, or a column of numbers, which then takes the place of bytes."""

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(tokens for _, tokens in self.buckets)

    def block(self, batch_size: int) -> int:
        return batch_size

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        steps = np.diff(((0, 2), *self.buckets), axis=0)
        if not self.buckets or not (steps > 0).all():
            yield f"buckets are (bytes, tokens) that both grow, with at least 3 tokens, not {self.buckets}"

    def over(self, examples: Indexed, batch_size: int) -> Indices:
        some(examples)
        bucket = np.searchsorted([size for size, _ in self.buckets], examples.sizes(self.column)).astype(np.uint8)
        return ShuffledBuckets(self.seed, bucket, batch_size, (*self.tokens, 0))


class ShuffledBuckets(Indices):
    """``ByLength`` over the ``bucket`` [N] of each example.

    The examples are ranked by bucket, and at random within one; runs of ``batch_size`` ranks are the batches, in a
    random order. The ranks that are left over, the longest texts, lie where batches reach over the ends of an epoch.
    """

    def __init__(self, seed: int, bucket: UInt8[np.ndarray, "N"], batch_size: int, tokens: tuple[int, ...]):
        """``tokens``: of a text of each bucket; 0: as many as the tokenizer declares."""
        self._seed, self._size, self._tokens = seed, np.uint64(batch_size), tokens
        self._length = np.uint64(len(bucket))
        by_bucket = np.argsort(bucket, kind="stable")
        self._rows = by_bucket.astype(np.uint32 if len(bucket) <= 2**32 else np.int64)  # bucket after bucket
        self._members = np.bincount(bucket, minlength=len(tokens)).astype(np.uint64)
        self._starts = np.cumsum(self._members) - self._members

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        ranks, keys = self._ranks(np.asarray(positions, np.uint64))
        bucket = self._bucket(ranks)
        member = permute(ranks - self._starts[bucket], self._members[bucket], mix(keys + bucket.astype(np.uint64)))
        return self._rows[self._starts[bucket] + member].astype(np.int64)

    def tokens(self, position: int) -> int:
        start = np.uint64(position) // self._size * self._size
        ends = np.array([start, start + self._size - np.uint64(1)], np.uint64)
        first, last = ends // self._length
        longest = np.full(1, self._length - np.uint64(1)) if first != last else self._ranks(ends)[0][1:]
        return self._tokens[int(self._bucket(longest)[0])]

    def instead(self, position: int, attempt: int) -> int:
        """Of the same bucket, as the batch has no more tokens."""
        ranks, _ = self._ranks(np.array([position], np.uint64))
        bucket = self._bucket(ranks)
        drawn = mix(mix(np.array([position], np.uint64)) + np.uint64(attempt)) % self._members[bucket]
        return int(self._rows[self._starts[bucket] + drawn][0])

    def _bucket(self, ranks: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts + self._members, ranks, side="right")

    def _ranks(self, positions: UInt64[np.ndarray, "B"]) -> tuple[UInt64[np.ndarray, "B"], UInt64[np.ndarray, "B"]]:
        """The rank of the example at each position among those of its epoch, and the epoch's key."""
        epochs, ranks = np.divmod(positions, self._length)
        keys = epoch_keys(self._seed, epochs)
        into = (positions - ranks) % self._size  # how far the batch over the epoch's start has come
        head = (self._size - into) % self._size  # places before the first batch that starts in the epoch
        runs = np.where(head < self._length, (self._length - head) // self._size, np.uint64(0))
        before = ranks < head
        run, within = np.divmod(ranks - head, self._size)
        inside = ~before & (run < runs)
        ranks[before] += (runs * self._size)[before]
        ranks[inside] = permute(run[inside], runs[inside], keys[inside]) * self._size + within[inside]
        return ranks, keys
