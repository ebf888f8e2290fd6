"""What a compiled step sends between devices, read from the text of its program.

The text lists computations; an instruction may call others. A ``while`` runs its body as often as its trip count
says (a scan over layers, microbatches or blocks), a ``conditional`` one of its branches: the one that moves most.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_SHAPE = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,<=]*)\]")
_CALLED = re.compile(
    r"\b(?:body|to_apply|calls|true_computation|false_computation|branch_computations|called_computations)="
    r"(\{[^}]*\}|%[\w.-]+)"
)
_NAME = re.compile(r"%([\w.-]+)")
_CONDITION = re.compile(r"\bcondition=%([\w.-]+)")
_CHAIN = re.compile(r'\bchannel_id=(\d+).*\bchain_id="(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED = re.compile(r"\breplica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"\breplica_groups=\[\d+,(\d+)\]<=")
_ON_AXES = re.compile(r"\breplica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_SIZE = re.compile(r"'(\w+)'=(\d+)")
_AXIS = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in a step: how often they run, and the bytes of the arrays that one device has part in.

    The array of a gather is what it makes, of the others what goes in: by a ring, a device sends about as many bytes
    (an all-reduce twice as many).
    """

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.count + other.count, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Traffic":
        return Traffic(self.count * times, self.bytes * times)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    bytes: int  # of its result
    operands: tuple[str, ...]
    calls: tuple[str, ...]
    devices: int  # of a collective: over how many it goes; 0: over all
    chain: str  # names one collective: a TPU may start it in one fusion, go on in others and end it in a last one
    condition: str  # of a while
    trips: int | None  # of a while, where it says
    constant: int | None  # the value of a whole number


Computations = Mapping[str, Mapping[str, _Instruction]]
Found = dict[tuple[str, int, str], Traffic]
"""By kind, number of devices and chain."""
Grouped = Mapping[tuple[str, int], Traffic]
"""By kind and by how many devices take part in one; 0: all."""


def grouped(program: str) -> Grouped:
    """The collectives of a compiled program, from its text (``compiled.as_text()``)."""
    computations, entry = _parse(program)
    total: dict[tuple[str, int], Traffic] = {}
    for (kind, devices, _), traffic in sorted(_of(computations, entry).items()):
        total[kind, devices] = total.get((kind, devices), Traffic()) + traffic
    return total


def by_kind(found: Grouped) -> dict[str, Traffic]:
    """The same, over whatever devices."""
    total: dict[str, Traffic] = {}
    for (kind, _), traffic in found.items():
        total[kind] = total.get(kind, Traffic()) + traffic
    return total


def collectives(program: str) -> dict[str, Traffic]:
    """The collectives of a compiled program by kind."""
    return by_kind(grouped(program))


def _of(computations: Computations, name: str) -> Found:
    """What a computation moves, with all that it calls."""
    found: Found = {}
    instructions = computations.get(name, {})
    for instruction in instructions.values():
        kind = instruction.opcode.removesuffix("-start")
        if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # a TPU's: the computation reduces, and keeps this device's part
        if kind in KINDS:
            found[kind, instruction.devices, instruction.chain] = Traffic(1, _moved(instruction, instructions))
        inner = [_of(computations, called) for called in instruction.calls]
        if instruction.opcode == "conditional":
            inner = [max(inner, key=lambda branch: sum(part.bytes for part in branch.values()))]
        for part in inner:
            for key, traffic in part.items():
                if instruction.opcode in ("while", "call", "conditional"):
                    found[key] = found.get(key, Traffic()) + traffic * _trips(computations, instruction)
                else:
                    found[key] = traffic
    return found


def _moved(instruction: _Instruction, beside: Mapping[str, _Instruction]) -> int:
    """Bytes of the array of one collective."""
    given = sum(beside[name].bytes for name in instruction.operands if name in beside)
    if not instruction.opcode.startswith("all-gather"):
        return given
    # The result of a start is what goes in and what comes out.
    return instruction.bytes - (given if instruction.opcode.endswith("-start") else 0)


def _trips(computations: Computations, instruction: _Instruction) -> int:
    """How often a while runs: as it says, or up to the one number that its condition knows; otherwise once."""
    if instruction.opcode != "while" or instruction.trips is not None:
        return instruction.trips or 1
    known = computations.get(instruction.condition, {}).values()
    numbers = [other.constant for other in known if other.constant is not None]
    return numbers[0] if len(numbers) == 1 else 1


def _parse(program: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    """Computations by name, each as instructions by name; and the name of the first that runs."""
    computations: dict[str, dict[str, _Instruction]] = {}
    entry, here = "", {}
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            here = computations[found[2]] = {}
            entry = found[2] if found[1] else entry
        elif found := _INSTRUCTION.match(line):
            here[found[1]] = _instruction(found[1], found[2])
    return computations, entry


def _instruction(name: str, text: str) -> _Instruction:
    """``f32[8,4]{1,0} all-gather(%x), dimensions={0}, …``"""
    kind, non_trainable = _split(text) if text.startswith("(") else text.split(" ", 1)
    opcode, _, _ = non_trainable.strip().partition("(")
    operands, attributes = _split(non_trainable.strip()[len(opcode) :])
    condition, chain, trips = (found.search(attributes) for found in (_CONDITION, _CHAIN, _TRIPS))
    return _Instruction(
        name=name,
        opcode=opcode,
        bytes=sum(_bytes(kind)),
        operands=tuple(_NAME.findall(operands)),
        # What a -start has called is not called again by its -done.
        calls=() if opcode.endswith(("-done", "-update")) else _names_of_called(attributes),
        devices=_devices(attributes),
        chain="/".join(chain.groups()) if chain else name,
        condition=condition[1] if condition else "",
        trips=int(trips[1]) if trips else None,
        constant=int(operands[1:-1]) if opcode == "constant" and operands[1:-1].isdigit() else None,
    )


def _devices(attributes: str) -> int:
    """Over how many devices a collective goes: groups are listed, counted, or axes of a mesh. Zero: over all."""
    if "source_target_pairs" in attributes:
        return 2
    if listed := _LISTED.search(attributes):
        return listed[1].count(",") + 1
    if counted := _COUNTED.search(attributes):
        return int(counted[1])
    if axes := _ON_AXES.search(attributes):
        sizes = {name: int(size) for name, size in _SIZE.findall(axes[1])}
        return math.prod(int(part or sizes[name]) for name, part in _AXIS.findall(axes[2]))
    return 0


def _names_of_called(attributes: str) -> tuple[str, ...]:
    return tuple(name for group in _CALLED.findall(attributes) for name in _NAME.findall(group))


def _split(text: str) -> tuple[str, str]:
    """A text that starts with a parenthesis: up to where it closes, and the rest."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    return text, ""


def _bytes(kind: str) -> Iterator[int]:
    """Bytes of each array of a type, ``f32[8,4]{1,0}`` or a tuple of such."""
    for name, bits, sizes in _SHAPE.findall(kind):
        width = 8 if name == "pred" else int(bits)
        yield math.ceil(width * math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size) / 8)
