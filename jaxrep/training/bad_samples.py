"""What could not be read on any host: the ledgers of all processes become one where a checkpoint is saved.

Between two checkpoints each process counts its own rows. At a checkpoint all stand at the same step, so the sum is what
one process would have counted; what follows from it (too much is bad, a shard is left out) follows in all of them.
"""

import dataclasses
from typing import TYPE_CHECKING

from jaxrep import hosts
from jaxrep.data.bad_samples import EMPTY, BadSampleReport
from jaxrep.data.loading.prefetch import Prefetch

if TYPE_CHECKING:
    from jaxrep.training.setup import Setup


def own(total: BadSampleReport) -> BadSampleReport:
    """What this process counts on from, of a checkpoint's ledger: the first from all of it, so that the sum stays.

    A shard that ended the run is tried again.
    """
    return (
        dataclasses.replace(total, failed_shards=())
        if hosts.is_main()
        else BadSampleReport(skipped_shards=total.skipped_shards)
    )


def settled(step: int, batches: Prefetch, setup: "Setup") -> BadSampleReport:
    """The ledger of all processes after this step; all of them must call this. It is kept in the run.

    Where another process left out a shard, this one leaves it out from here on: it reads anew from this step, as a run
    that goes on from its checkpoint does.
    """
    said = hosts.all_gather_object(f"ledger of {setup.run} at step {step}", batches.ledger.to_json())
    total = sum(map(BadSampleReport.from_json, said), EMPTY)
    if set(total.skipped_shards) - set(batches.ledger.skipped_shards):
        batches.go_on_with(
            setup.loader(batches.position, batches.ledger + BadSampleReport(skipped_shards=total.skipped_shards))
        )
    if hosts.is_main():
        setup.run.keep_ledger(total, of_all=True)
    return total
