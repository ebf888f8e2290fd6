"""Plan a step by the TPU compiler in a process of its own, which ends as soon as the layout of memory is known.

That is after a tenth of the time that the compiler takes: generating code takes the rest, and cannot be skipped.
"""

import os
import pickle
import sys
import tempfile
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jaxrep.data._util.parallel import end_with_parent
from jaxrep.errors import JaxrepError
from jaxrep.plan.plan import Plan, draft_plan
from jaxrep.plan.program import compile_step, read_layout
from jaxrep.plan.topology import devices
from jaxrep.recipe import Recipe

MESSAGES = "messages"
POLL_SECONDS = 0.1


def plan_layout(recipe: Recipe, topology: str, available: int | None = None) -> Plan:
    """Plan the step of a recipe for TPUs of a topology, up to the layout of memory.

    The code is not generated: what its generation would refuse (a kernel that takes too much of a core's own memory)
    is not found.

    Args:
        recipe: the recipe.
        topology: as ``v5e:16x16``; call ``topology.prepare`` first.
        available: bytes of a device; None: unknown.

    Raises:
        UsageError: the recipe has mistakes, or does not fit the mesh.
        JaxrepError: the compiler failed.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="jaxrep-plan-", ignore_cleanup_errors=True) as name:
        folder, packed = Path(name), pickle.dumps(recipe)
        process = context.Process(target=_work, args=(theirs, packed, topology, available, folder), daemon=True)
        process.start()
        theirs.close()
        try:
            draft = _received(ours, folder)
            while (program := read_layout(folder)) is None and not ours.poll(POLL_SECONDS):
                pass
            return draft.with_program(_received(ours, folder) if program is None else program)
        finally:
            process.kill()
            process.join()


def _received(connection: Connection, folder: Path) -> Any:
    """Return what the process sends, or raise what it raised. Raises JaxrepError: it ended."""
    try:
        result = connection.recv()
    except (EOFError, ConnectionResetError):
        messages = (folder / MESSAGES).read_text(errors="replace").split("\n") if (folder / MESSAGES).exists() else []
        last = next((line for line in reversed(messages) if line.strip()), "it said nothing")
        raise JaxrepError(f"the process that compiles the step ended early, often for want of memory: {last}") from None
    if isinstance(result, BaseException):
        raise result
    return result


def _work(connection: Connection, recipe: bytes, topology: str, available: int | None, folder: Path) -> None:
    """Send the draft of a plan, then the compiled program; or an exception."""
    end_with_parent()
    with (folder / MESSAGES).open("wb") as messages:
        os.dup2(messages.fileno(), sys.stderr.fileno())  # the compiler writes there
    try:
        draft, lowered = draft_plan(pickle.loads(recipe), devices(topology), available)
        connection.send(draft)
        connection.send(compile_step(lowered, "tpu", folder))
    except JaxrepError as error:
        connection.send(error)
    except Exception as error:
        connection.send(JaxrepError(f"the step cannot be compiled: {type(error).__name__}: {error}"))
