"""Connect the processes of one run: find each other, agree before the first step, and stop together.

Each host runs the same command. A launcher sets ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0),
``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``; or ``JAXREP_HOSTS=auto``, and JAX asks the cluster (SLURM, TPU pods,
Kubernetes, Open MPI). Without either, a process trains alone. In both ways process 0 listens at the coordinator's
address only, or at ``JAX_COORDINATOR_BIND_ADDRESS``.
"""

import base64
import contextlib
import io
import ipaddress
import itertools
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import clusters, distributed  # the address of a cluster; words between processes without a collective
from jax.experimental import multihost_utils

from jaxrep.errors import BadSample, JaxrepError, UsageError
from jaxrep.npy import read_npy

LOG = logging.getLogger(__name__)

T = TypeVar("T")
_meetings = itertools.count()  # a barrier is passed once: each meeting has a number of its own

ADDRESS, COUNT, NUMBER, AUTO = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAXREP_HOSTS"
LISTEN = "JAX_COORDINATOR_BIND_ADDRESS"
PATIENCE = 900.0
"""Seconds for which processes wait for one another's set-up: data may be fetched or indexed meanwhile."""


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of the run, if a launcher started any; call it before JAX meets its devices.

    Raises:
        UsageError: some of the variables are missing or invalid.
    """
    address, count, number = (environment.get(name) for name in (ADDRESS, COUNT, NUMBER))
    if not count and not number:  # jax reads an address alone in its own ways
        if environment.get(AUTO) == "auto":
            _join_cluster(environment)
        return
    if not (address and count and number):
        given = [name for name in (ADDRESS, COUNT, NUMBER) if environment.get(name)]
        missing = [name for name in (ADDRESS, COUNT, NUMBER) if name not in given]
        raise UsageError(f"{', '.join(given)} is set, but not {', '.join(missing)}: several processes need all three")
    if not count.isdecimal() or not number.isdecimal() or int(number) >= int(count):
        raise UsageError(f"{COUNT}={count} and {NUMBER}={number}: processes are counted from 1 and numbered from 0")
    # By default JAX's coordinator listens on all interfaces, and it asks nobody for a password.
    listen = environment.get(LISTEN) or address
    jax.distributed.initialize(address, int(count), int(number), coordinator_bind_address=listen)


def _join_cluster(environment: Mapping[str, str]) -> None:
    """Join the processes that JAX finds in the environment of a cluster. Raises UsageError: it finds none."""
    find = clusters.ClusterEnv.auto_detect_unset_distributed_params
    address, count, number, devices = find(environment.get(ADDRESS), None, None, None, None, int(PATIENCE))
    if address is None or count is None or number is None:
        raise UsageError(
            f"{AUTO}=auto, and JAX finds no cluster here (SLURM, TPU pods, Kubernetes, Open MPI): set {ADDRESS}, "
            f"{COUNT} and {NUMBER}, or unset {AUTO} to train alone"
        )
    listen = environment.get(LISTEN) or (own_address(address) if number == 0 else None)
    if number == 0 and listen is None:
        LOG.warning(
            "the coordinator's address %s is none of this machine's: it listens on all interfaces; set %s to an "
            "address of the hosts' own network",
            *(address, LISTEN),
        )
    jax.distributed.initialize(address, count, number, devices, coordinator_bind_address=listen)


def own_address(address: str) -> str | None:
    """Return the address of this machine for the host:port of the coordinator; None if other hosts name another one.

    A machine may know its own name as a loopback address (Debian's 127.0.1.1), which no other host reaches.
    """
    name, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(name.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return None
    for family, _, _, _, (ip, *_) in found:
        if ipaddress.ip_address(str(ip).partition("%")[0]).is_loopback and name.strip("[]") not in (ip, "localhost"):
            continue
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.bind((ip, 0))
            return f"[{ip}]:{port}" if family == socket.AF_INET6 else f"{ip}:{port}"
    return None


def client() -> Any:
    """Return the client of the coordinator's key-value store; several processes share it."""
    return distributed.global_state.client


def is_main() -> bool:
    """Return whether this is the process that writes and prints."""
    return jax.process_index() == 0


def assert_equal(what: str, recipe: object) -> None:
    """Check that all processes have the same recipe, as JSON values. Raises UsageError in every process."""
    recipes = all_gather_object(what, recipe)
    for number, other in enumerate(recipes):
        if other != recipes[0]:
            raise UsageError(
                f"the processes were given different recipes: {_first_difference(recipes[0], other)} in process "
                f"{number}; start all of them with one command"
            )


def on_all_hosts(what: str, action: Callable[[], T]) -> T:
    """Return ``action()``, run by every process: if one fails, all fail with its message, and none hangs.

    Raises:
        JaxrepError: this process or another one failed.
    """
    try:
        result = action()
    except JaxrepError as error:
        all_gather_object(what, {"fault": str(error), "usage": isinstance(error, UsageError)})
        raise
    said = all_gather_object(what, None)
    for number, other in enumerate(said):
        if other is not None:
            kind = UsageError if other["usage"] else JaxrepError
            raise kind(f"process {number} of {len(said)} could not go on: {other['fault']}")
    return result


def all_gather_object(what: str, words: Any) -> list[Any]:
    """Return the objects of all processes in their order; all must make the same calls in the same order.

    Objects are numbers, strings, arrays, BadSamples, and lists, tuples and dictionaries of these. They go as JSON
    through the coordinator's key-value store: no process hangs in a collective that another one never enters, and
    nothing that arrives is executed.
    """
    if jax.process_count() == 1:
        return [words]
    place = f"jaxrep/{next(_meetings)}"
    store = client()
    own = f"{place}/{jax.process_index()}"
    store.key_value_set(own, json.dumps(_encode(words)))
    deadline = time.monotonic() + PATIENCE
    said = []
    for number in range(jax.process_count()):
        left = max(int(1000 * (deadline - time.monotonic())), 1)
        try:
            said.append(_decode(json.loads(store.blocking_key_value_get(f"{place}/{number}", left))))
        except Exception as error:  # the client's errors have no type of their own
            raise JaxrepError(
                f"process {number} of {jax.process_count()} did not come to '{what}' within {PATIENCE:.0f} s: "
                "see its own message"
            ) from error
    store.wait_at_barrier(f"{place}/heard", int(1000 * PATIENCE))  # nobody leaves before all have heard
    store.key_value_delete(own)
    return said


def _encode(value: Any) -> Any:
    """Return a value as JSON; types that JSON lacks become an object of one key that begins with a $."""
    if isinstance(value, np.ndarray | np.generic):
        content = io.BytesIO()
        np.save(content, value, allow_pickle=False)
        return {"$array": base64.b64encode(content.getvalue()).decode(), "scalar": isinstance(value, np.generic)}
    if isinstance(value, BadSample):
        return {"$bad": [value.place, value.reason]}
    if isinstance(value, Mapping):
        return {"$items": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item) for item in value]}
    return [_encode(item) for item in value] if isinstance(value, list) else value


def _decode(value: Any) -> Any:
    """Invert ``_encode``."""
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        array = read_npy(io.BytesIO(base64.b64decode(value["$array"])))
        return array[()] if value["scalar"] else array
    if "$bad" in value:
        return BadSample(*value["$bad"])
    if "$tuple" in value:
        return tuple(map(_decode, value["$tuple"]))
    return {_decode(key): _decode(item) for key, item in value["$items"]}


def _first_difference(one: object, other: object) -> str:
    """Return the first field in which two recipes, as JSON values, differ, with both values."""
    first, second = (
        {jax.tree_util.keystr(path, simple=True, separator="."): value for path, value in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(recipe, lambda value: not value) for recipe in (one, other))
    )
    path = next(path for path in {**first, **second} if first.get(path) != second.get(path))
    return f"{path} is {first.get(path)} in process 0 and {second.get(path)}"


def stop_requested(step: int, here: bool) -> bool:
    """Return whether all processes save after this step and stop, because one of them was told to.

    All processes must call this at every step; they all stop at the same step.

    Args:
        step: the step.
        here: whether this process was told to stop; this decides if it trains alone.
    """
    return here if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)
