"""Devices to plan for, which need not exist: a TPU topology or simulated CPU devices, and their memory."""

import importlib.util
import os
from typing import Any

from jaxrep.errors import JaxrepError, UsageError

MEMORY_GIB = {"TPU v4": 30.75, "TPU v5 lite": 15.75, "TPU v5": 95.74, "TPU v6 lite": 31.25}
"""Memory of a chip that a program may use, as the compiler states it when it refuses one."""

MAX_SIMULATED = 65_536
"""Simulated devices; each takes memory and threads of this machine."""

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # a program for other devices is compiled, and never runs
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # beside a training, or beside another plan
    "TPU_SKIP_MDS_QUERY": "1",  # the others keep libtpu from asking a server for its place, and from warnings
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


def prepare(topology: str) -> None:
    """Set environment variables that JAX and libtpu read once, when they start."""
    os.environ.update(_ENVIRONMENT)
    kind, _, count = topology.partition(":")
    if kind == "cpu" and count.isdecimal() and 1 <= int(count) <= MAX_SIMULATED:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}"


def devices(topology: str) -> list[Any]:
    """Return the devices of a topology such as ``v5e:16x16`` or ``cpu:256``.

    Raises:
        UsageError: there is no such topology.
        JaxrepError: libtpu is not installed.
    """
    kind, _, size = topology.partition(":")
    if kind == "cpu":
        return _simulated(topology, size)
    if importlib.util.find_spec("libtpu") is None:
        raise JaxrepError(
            f"--topology {topology} needs the TPU compiler, which itself needs no TPU: pip install 'jaxrep[tpu]'; "
            "--topology cpu:256 simulates devices without it"
        )
    from jax.errors import JaxRuntimeError
    from jax.experimental.topologies import get_topology_desc

    sides = [int(side) for side in size.split("x") if side.isdigit()]
    host = [min(2, side) for side in (*sides, 1, 1)[:2]]  # a host has up to 2 x 2 chips
    megacore = {"chip_config_name": "megacore"} if kind == "v4" else {}  # both cores of a chip are one device
    try:
        return get_topology_desc(topology, "tpu", chips_per_host_bounds=(*host, 1), **megacore).devices
    except (JaxRuntimeError, ValueError) as error:
        raise UsageError(
            f"--topology {topology} is neither simulated devices, as cpu:256, nor known to the TPU compiler, "
            f"as v5e:16x16, v6e:16x16, v4:2x2x4 or v5p:8x8x16: {str(error).splitlines()[0]}"
        ) from error


def _simulated(topology: str, size: str) -> list[Any]:
    import jax

    if not (size.isdecimal() and 1 <= int(size) <= MAX_SIMULATED):
        raise UsageError(
            f"--topology {topology} should state the number of simulated devices, as cpu:256, up to {MAX_SIMULATED:,}"
        )
    started = jax.devices("cpu")
    if len(started) < int(size):
        raise JaxrepError(
            f"--topology {topology} asks for {size} simulated devices and JAX has started with {len(started)}: "
            f"set XLA_FLAGS=--xla_force_host_platform_device_count={size} before it starts"
        )
    return started[: int(size)]


def memory_bytes(device: Any) -> int | None:
    """Return the memory of one device that a program may use; None if unknown, as for CPUs."""
    return int(MEMORY_GIB[device.device_kind] * 2**30) if device.device_kind in MEMORY_GIB else None
