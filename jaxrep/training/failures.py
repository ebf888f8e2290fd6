"""Propagate a fatal error on one process to all others.

A process that fails (its worker was killed, its disk is full) enters no further collective, and the others would wait
for it until a launcher ends them. It writes its message into the coordinator's key-value store. A thread of each
process looks there every few seconds: this costs no step, and works while a process waits in a collective.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator

import jax

from jaxrep import hosts
from jaxrep.errors import JaxrepError

PLACE = "jaxrep/failed"
EVERY = 5.0
"""Seconds between two looks."""
GRACE = 5.0
"""Seconds in which a process may leave by itself: most mistakes are told to all, and each raises its own error."""
PATIENCE = 60.0
"""Seconds for which ``all_come`` waits."""


@contextlib.contextmanager
def propagate_failures() -> Iterator[None]:
    """End this process if another process fails within the context, with the same exit status."""
    if jax.process_count() == 1:
        yield
        return
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(over,), name="alarm", daemon=True)
    listener.start()
    try:
        yield
    except BaseException as error:
        _tell(error)
        raise
    finally:
        over.set()
        listener.join()  # it may be about to end this process: what the others' end raised here is no news


def all_hosts_reach(what: str) -> bool:
    """Return whether every process calls this within a minute; after a failure collectives may hang."""
    if jax.process_count() == 1:
        return True
    try:
        hosts.client().wait_at_barrier(f"jaxrep/{what}", int(1000 * PATIENCE))
    except Exception:  # one did not come; the client's errors have no type of their own
        return False
    return True


def _tell(error: BaseException) -> None:
    """Send why this process fails; the message of the first failing process is kept."""
    known = isinstance(error, JaxrepError)
    words = {
        "process": jax.process_index(),
        "told": str(error) if known else f"{type(error).__name__}: {error} (its own output says where)",
        "status": error.status if known else JaxrepError.status,
    }
    with contextlib.suppress(Exception):  # another one was first, or the coordinator is gone, and nobody listens
        hosts.client().key_value_set(PLACE, json.dumps(words))


def _listen(over: threading.Event) -> None:
    while not over.wait(EVERY):
        try:
            words = json.loads(hosts.client().key_value_try_get(PLACE))
        except Exception:  # nobody has failed; the client's errors have no type of their own
            continue
        if over.wait(GRACE):
            return
        sys.stdout.flush()
        told = f"process {words['process']} of {jax.process_count()} could not go on: {words['told']}"
        print(f"jaxrep: error: {told}", file=sys.stderr, flush=True)
        try:
            jax.distributed.shutdown()  # it waits for the others: whoever left before would be missed, with much noise
        finally:
            os._exit(words["status"])
