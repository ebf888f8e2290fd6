"""Compile a step, and read how the compiler lays out its arrays in memory.

For a TPU, ``memory_analysis()`` of a compiled step with scans states too many temporaries (6.2 GiB where 4.2 are laid
out). The compiler refuses a step by its buffer assignment. On request it writes that into a folder, long before the
program is complete: most of the time goes into generating code. On other platforms both numbers are the same.
"""

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Program:
    """Describe a compiled step on one device."""

    total: int
    """Bytes of arguments, outputs and temporaries, as they are laid out."""
    text: str | None
    """The program; None: the compiler gave no text."""
    host: int = 0
    """Bytes of temporaries in the memory of the host."""
    code: int | None = None
    """Bytes of the code; None: it was not generated."""
    refused: bool = False
    """Whether the compiler refused the step, since it exceeds the memory."""


def compile_step(lowered: jax.stages.Lowered, platform: str, folder: Path | None = None) -> Program:
    """Compile a step to its end. A TPU's compiler writes its reports into ``folder``, by default a temporary one."""
    if platform != "tpu":
        compiled = lowered.compile()
        size: Any = compiled.memory_analysis()
        outputs = size.output_size_in_bytes - size.alias_size_in_bytes
        total = size.argument_size_in_bytes + outputs + size.temp_size_in_bytes
        return Program(total, compiled.as_text(), size.host_temp_size_in_bytes, size.generated_code_size_in_bytes)
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="jaxrep-plan-") as created:
            return compile_step(lowered, platform, Path(created))
    try:
        compiled = lowered.compile(compiler_options={"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True})
    except jax.errors.JaxRuntimeError as error:
        if (total := refused_total(str(error))) is None:
            raise
        return dataclasses.replace(read_layout(folder) or Program(total, None), refused=True)
    size = compiled.memory_analysis()
    laid_out = read_layout(folder)
    assert laid_out is not None, f"the compiler left no report of its layout in {folder}"
    return dataclasses.replace(laid_out, code=size.generated_code_size_in_bytes)


def read_layout(folder: Path) -> Program | None:
    """Read the compiler's reports on a step's memory and its text; None: they are not complete yet."""
    refused = any(folder.glob("*.oom_intermediate_module.txt"))
    if not refused and not any(folder.glob("*.after_optimizations_after_buffer_assignment.txt")):
        return None  # it writes one of them after the others
    program = max(folder.glob("*.after_optimizations.txt"))
    report = program.with_name(f"{program.stem}-memory-usage-report.txt").read_text()
    sizes = {int(color): int(size) for color, size in _SPACE.findall(report)}
    return Program(sizes.get(_DEVICE, 0), program.read_text(), sizes.get(_HOST, 0), refused=refused)


_SPACE = re.compile(r"^Memory Space: \S+ \(color=(\d+)\)\nTotal bytes: (\d+)", re.MULTILINE)
_DEVICE, _HOST = 0, 5  # colors of memories, as in S(5) of the program; the report's names do not tell the host's

REFUSED = re.compile(r"RESOURCE_EXHAUSTED.*HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM", re.DOTALL)


def refused_total(message: str) -> int | None:
    """Return the total bytes in the compiler's message that a step exceeds the memory; None for other messages.

    The message calls temporaries what is their sum with the arguments.
    """
    match = REFUSED.search(message)
    return None if match is None else int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))
