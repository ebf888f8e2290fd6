"""Measure the training step of a recipe on synthetic batches: speed, utilization, memory, time to compile."""

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from jaxrep.commands.models import add_trust, check_out, number
from jaxrep.commands.output import console, echo, one_line
from jaxrep.commands.recipes import EXPERIMENT, find, override, split
from jaxrep.data._util.parallel import process_pool
from jaxrep.errors import UsageError

COLUMNS = {
    "examples_per_second_per_device": ("examples/s per device", "{:,.1f}"),
    "step_seconds": ("s per step", "{:.4f}"),
    "mfu": ("mfu", "{:.1%}"),
    "hfu": ("hfu", "{:.1%}"),
    "memory": ("GiB", "{:.2f}"),
    "seconds_to_compile": ("s to compile", "{:.1f}"),
    "seconds_to_first_step": ("s to first step", "{:.1f}"),
}
"""Figure -> its heading and its form in the table."""


def main(args: list[str]) -> int:
    """Run ``jaxrep bench EXPERIMENT [--vary PATH=A,B ...] [--steps N] [--out FILE] [--field.path VALUE ...]``."""
    options = argparse.ArgumentParser("jaxrep bench", description=__doc__, add_help=False, allow_abbrev=False)
    add = options.add_argument
    add(
        "--vary",
        metavar="PATH=A,B",
        action="append",
        default=[],
        type=_variation,
        help="measure each value of a field, each combination in a process of its own; may be repeated",
    )
    add("--steps", type=number(1, 100_000), default=10, metavar="N", help="steps to measure (default: 10)")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="keep one JSON object per combination in this file; those that it holds are not measured again",
    )
    add("--json", action="store_true", help="print one JSON object per combination")
    add_trust(options)
    target, given, fields = split(args, options, f"{EXPERIMENT}; or a run directory")
    check_out(given.out)
    names = [name for name, _ in given.vary]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"--vary names {repeated[0]} twice: give its values in one list")
    choices = [dict(zip(names, values, strict=True)) for values in itertools.product(*(v for _, v in given.vary))]
    experiment = find(target, given)
    for choice in choices:  # all are checked before the first is measured
        override(experiment, fields + _flags(choice), f"jaxrep bench {target}", options.format_help())
    rows = []
    for row in _measured(target, fields, choices, given):
        rows.append(row)
        if given.json:
            echo(json.dumps(row))
    if not given.json:
        _print_table(names, rows)
    return int(any("error" in row for row in rows))


def _variation(text: str) -> tuple[str, list[str]]:
    path, equals, values = text.partition("=")
    if not equals or not path or not all(values.split(",")):
        raise argparse.ArgumentTypeError(f"expected PATH=A,B, as method.towers.image.remat=none,full, got {text!r}")
    return path.removeprefix("--").replace("-", "_"), values.split(",")


def _flags(choice: Mapping[str, str]) -> list[str]:
    return [word for path, value in choice.items() for word in (f"--{path.replace('_', '-')}", value)]


def _measured(
    target: str, fields: Sequence[str], choices: Sequence[Mapping[str, str]], given: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each combination, from the file or from a new process: its memory is its own."""
    kept = _read(given.out) if given.out else []
    for choice in choices:
        key = {"recipe": [target, *fields], "steps": given.steps, "vary": choice}
        row = next((row for row in kept if {**row, **key} == row), None)
        if row is None:
            try:
                with process_pool(1) as pool:
                    flags = [*fields, *_flags(choice)]
                    row = {**key, **pool.submit(_measure, target, flags, given.steps, given.trust).result()}
            except Exception as error:  # what fails, often for want of memory, ends no other
                row = {**key, "error": (str(error) or type(error).__name__).splitlines()[0][:300]}
            if given.out and "error" not in row:
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        yield row


def _measure(target: str, flags: list[str], steps: int, trust: bool) -> dict[str, Any]:
    from jaxrep.training.compilation import enable_compilation_cache
    from jaxrep.training.step_bench import measure_step

    enable_compilation_cache()
    experiment = find(target, argparse.Namespace(trust=trust))
    return measure_step(override(experiment, flags, "jaxrep bench").recipe, steps)


def _read(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file; a last line that a killed command cut off is left out. Raises UsageError."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    try:
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise UsageError(f"--out {path} is not a file of measured steps, one JSON object per line: {error}") from error
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
    return [row for row in rows if isinstance(row, dict)]


def _print_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (*names, *(heading for heading, _ in COLUMNS.values())):
        table.add_column(heading, justify="left" if heading in names else "right", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    console().print(table)
    for row in rows:
        if "error" in row:
            echo(f"{' '.join(_flags(row['vary'])) or 'the recipe'} cannot be measured: {one_line(row['error'])}")


def _cells(row: Mapping[str, Any]) -> list[str]:
    memory = row.get("memory/device_peak_bytes", row.get("memory/process_peak_bytes"))
    figures = {**row, **({} if memory is None else {"memory": memory / 2**30})}
    shown = (form.format(figures[name]) if name in figures else "—" for name, (_, form) in COLUMNS.items())
    return [*row["vary"].values(), *shown]
