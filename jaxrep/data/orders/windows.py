"""Order more examples than fit a list: shuffle the shards, then all examples of a few shards at a time.

The memory is a few numbers per shard, for any number of examples. Examples that are read at about the same time lie in
the shards of one window, so that few indices and files are in use at a time. Lanes give hosts shards of their own.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep import hosts
from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.orders.base import SUBSTITUTE_DISTANCE, Indices, Order, PlannedIndices, require_examples
from jaxrep.data.orders.lanes import Lanes, deal
from jaxrep.data.orders.permutation import epoch_keys, permute
from jaxrep.data.source import Examples
from jaxrep.errors import UsageError
from jaxrep.spec import Count, spec

LOG = logging.getLogger(__name__)

MAX_DRIFT = 0.05
"""How much more examples than the smallest lane the largest may hold without a word."""


@spec
class Windowed(Order):
    """Read every example once per epoch: shards in a random order, then the examples of each window of shards.

    With several lanes, the rows of a batch are cut into equal parts, and each of these lanes reads shards of its own in
    an order of its own. A host whose rows are whole lanes reads no other shards; so on every number of hosts that
    divides ``lanes``, no two hosts read the same shard. The order is the same on any number of hosts.

    The shards are dealt to the lanes so that two lanes differ by no more examples than the largest shard has. An epoch
    is then one of a lane: each example comes once per epoch of its lane, and a lane with fewer examples repeats them
    sooner. When the training has passed over E times as many examples as there are, a lane that holds 1 + x times the
    mean has ended E / (1 + x) epochs. Lanes of equally many examples do not drift. In a mixture each source has its
    lanes, and each lane draws the sources by their weights.
    """

    shards: Count = 64
    """Shards per window of a lane: more mix better, fewer keep less of an index in memory."""
    lanes: Count = 1
    """Equal parts of a batch, each with shards of its own; it divides the batch size."""

    @property
    def batch_unit(self) -> int:
        return self.lanes

    @property
    def shard_lanes(self) -> int:
        return self.lanes

    def batch_problems(self, batch_size: int) -> Iterator[str]:
        if self.lanes > 0 and batch_size % self.lanes:
            yield f"order.lanes is {self.lanes}, which does not divide batch_size {batch_size}: take a divisor of it"

    def indices(self, examples: Examples, batch_size: int) -> Indices:
        require_examples(examples)
        ends = np.asarray(examples.shard_ends, np.int64)
        sizes = np.diff(ends, prepend=0)
        starts = ends - sizes
        if self.lanes == 1:
            return ShuffledWindows(self.seed, starts, sizes, self.shards)
        if self.lanes > (filled := int(np.count_nonzero(sizes))):
            raise UsageError(
                f"the order has {self.lanes} lanes, and the data have {filled} shard{'s' * (filled != 1)} with "
                "examples: each lane reads shards of its own, so set data.order.lanes to at most "
                f"{filled}, or take smaller shards"
            )
        seeds = epoch_keys(self.seed, np.arange(self.lanes, dtype=np.uint64)).tolist()
        reach = max(SUBSTITUTE_DISTANCE // self.lanes, 1)
        dealt = deal(sizes, self.lanes)
        warn_of_drift([int(sizes[own].sum()) for own in dealt])
        lanes = [
            ShuffledWindows(seed, starts[own], sizes[own], self.shards, reach)
            for seed, own in zip(seeds, dealt, strict=True)
        ]
        return Lanes(lanes, batch_size)


def warn_of_drift(sizes: Sequence[int]) -> None:
    """Say that lanes of these numbers of examples drift apart by more than ``MAX_DRIFT``."""
    least, most = min(sizes), max(sizes)
    if hosts.is_main() and most > (1 + MAX_DRIFT) * least:
        LOG.warning(
            "the %d lanes of the order hold %d to %d examples, so that those of the smallest come %.0f%% more often "
            "than those of the largest: fewer lanes (data.order.lanes) or smaller shards even this out",
            len(sizes),
            least,
            most,
            100 * (most / least - 1),
        )


class WindowPlan(NamedTuple):
    """Hold the shards and windows of an epoch."""

    key: np.uint64
    shards: Int[np.ndarray, "S"]
    """The shards in the order of this epoch."""
    starts: Int[np.ndarray, "S+1"]
    """Place in the epoch at which each of them starts, and the end."""
    windows: Int[np.ndarray, "W+1"]
    """Place at which each window starts, and the end."""


class ShuffledWindows(PlannedIndices[WindowPlan]):
    """Compute ``Windowed`` over the shards that begin at the indices ``starts`` [S] and hold ``sizes`` [S] examples."""

    def __init__(
        self,
        seed: int,
        starts: Int[np.ndarray, "S"],
        sizes: Int[np.ndarray, "S"],
        shards: int,
        reach: int = SUBSTITUTE_DISTANCE,
    ):
        super().__init__(seed, int(sizes.sum()))
        self._starts, self._sizes, self._shards, self.reach = starts, sizes, shards, reach

    def plan(self, key: np.uint64) -> WindowPlan:
        shards = np.arange(len(self._starts), dtype=np.uint64)
        shards = permute(shards, len(shards), np.full_like(shards, key)).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(self._sizes[shards])])
        return WindowPlan(key, shards, starts, np.append(starts[: -1 : self._shards], starts[-1]))

    def read_plan(self, plan: WindowPlan, places: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        window = np.searchsorted(plan.windows, places, side="right") - 1
        start, size = plan.windows[window].astype(np.uint64), np.diff(plan.windows)[window].astype(np.uint64)
        keys = splitmix64(plan.key + window.astype(np.uint64))
        place = (start + permute(places - start, size, keys)).astype(np.int64)
        slot = np.searchsorted(plan.starts, place, side="right") - 1
        return self._starts[plan.shards[slot]] + place - plan.starts[slot]
