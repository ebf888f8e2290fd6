"""Collectives of a compiled step, counted from the text of its HLO program.

The text lists computations, whose instructions may call others. A ``while`` runs its body as often as its trip count
states (a scan over layers, microbatches or blocks). A ``conditional`` counts as its branch with the most bytes.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_KIND = re.compile(r"all-(gather|reduce|to-all)|collective-(broadcast|permute)|ragged-all-to-all|reduce-scatter")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
# name = type opcode(operands), attributes
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*?)\)(?:, (.*))?$")
_SHAPE = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,<=]*)\]")
_CALLED = re.compile(
    r"\b(?:body|to_apply|calls|true_computation|false_computation|branch_computations|called_computations)="
    r"(\{[^}]*\}|%[\w.-]+)"
)
_NAME = re.compile(r"%([\w.-]+)")
_CONDITION = re.compile(r"\bcondition=%([\w.-]+)")
_CHAIN = re.compile(r'\bchannel_id=(\d+).*\bchain_id="(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUP_LIST = re.compile(r"\breplica_groups=\{\{([\d,]+)\}")
_GROUP_SIZE = re.compile(r"\breplica_groups=\[\d+,(\d+)\]<=")
_GROUP_AXES = re.compile(r"\breplica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_SIZE = re.compile(r"'(\w+)'=(\d+)")
_AXIS = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Count the collectives of one kind in a step, and the bytes of their arrays on one device.

    For a gather that is the array it makes, else the input. In a ring a device sends about as many bytes (for an
    all-reduce twice as many).
    """

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.count + other.count, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Traffic":
        return Traffic(self.count * times, self.bytes * times)


class _Instruction(NamedTuple):
    """Hold the parts of an instruction: ``%name = f32[8,4]{1,0} all-gather(%x), dimensions={0}, …``."""

    name: str
    type: str
    opcode: str
    operands: str
    attributes: str

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(_array_bytes(self.type))

    @property
    def calls(self) -> list[str]:
        """Computations that it calls; those of a -start are not called again by its -done."""
        groups = () if self.opcode.endswith(("-done", "-update")) else _CALLED.findall(self.attributes)
        return [name for group in groups for name in _NAME.findall(group)]

    @property
    def chain(self) -> str:
        """The identity of a collective, which a TPU may start in one fusion and end in another one."""
        chain = _CHAIN.search(self.attributes)
        return "/".join(chain.groups()) if chain else self.name


Computations = dict[str, dict[str, _Instruction]]
"""Instructions by name, per computation."""
TrafficByGroup = Mapping[tuple[str, int], Traffic]
"""Traffic by kind and by the number of devices in a group; 0: all."""


def count_collectives(program: str) -> TrafficByGroup:
    """Count the collectives of a compiled program, given its text (``compiled.as_text()``)."""
    total = defaultdict[tuple[str, int], Traffic](Traffic)
    for (kind, devices, _), traffic in sorted(_traffic(*_parse(program)).items()):
        total[kind, devices] += traffic
    return total


def by_kind(groups: TrafficByGroup) -> dict[str, Traffic]:
    """Sum traffic over group sizes."""
    total = defaultdict[str, Traffic](Traffic)
    for (kind, _), traffic in groups.items():
        total[kind] += traffic
    return total


def _traffic(computations: Computations, name: str) -> dict[tuple[str, int, str], Traffic]:
    """Return the traffic of a computation and of all that it calls, by kind, number of devices and chain."""
    total = defaultdict[tuple[str, int, str], Traffic](Traffic)
    instructions = computations.get(name, {})
    for instruction in instructions.values():
        kind = instruction.opcode.removesuffix("-start")
        if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # on TPUs: the computation reduces, and keeps this device's part
        if _KIND.fullmatch(kind):
            key = kind, _group_size(instruction.attributes), instruction.chain
            total[key] = Traffic(1, _bytes_moved(instruction, instructions))
        called = [_traffic(computations, callee) for callee in instruction.calls]
        if instruction.opcode == "conditional":
            called = [max(called, key=lambda branch: sum(part.bytes for part in branch.values()))]
        repeated = instruction.opcode in ("while", "call", "conditional")
        for key, traffic in (item for part in called for item in part.items()):
            total[key] = total[key] + traffic * _trips(computations, instruction) if repeated else traffic
    return total


def _bytes_moved(instruction: _Instruction, computation: Mapping[str, _Instruction]) -> int:
    """Return the bytes of the array of one collective."""
    inputs = sum(computation[name].bytes for name in _NAME.findall(instruction.operands) if name in computation)
    if instruction.opcode == "all-gather-start":
        return instruction.bytes - inputs  # its result holds both
    return instruction.bytes if instruction.opcode == "all-gather" else inputs


def _trips(computations: Computations, instruction: _Instruction) -> int:
    """Return the trip count of a while: as stated, else the only integer constant in its condition, else 1."""
    if instruction.opcode != "while":
        return 1
    if stated := _TRIPS.search(instruction.attributes):
        return int(stated[1])
    name = _CONDITION.search(instruction.attributes)
    condition = computations.get(name[1], {}).values() if name else ()
    limits = [int(i.operands) for i in condition if i.opcode == "constant" and i.operands.isdigit()]
    return limits[0] if len(limits) == 1 else 1


def _parse(program: str) -> tuple[Computations, str]:
    """Return the computations, and the name of the entry computation."""
    computations: Computations = {}
    entry, current = "", {}
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif match := _INSTRUCTION.match(line):
            current[match[1]] = _Instruction(*match.groups(default=""))
    return computations, entry


def _group_size(attributes: str) -> int:
    """Return the number of devices per group, which the text lists, counts or names as mesh axes; 0: all."""
    if "source_target_pairs" in attributes:
        return 2
    if group := _GROUP_LIST.search(attributes):
        return group[1].count(",") + 1
    if size := _GROUP_SIZE.search(attributes):
        return int(size[1])
    if axes := _GROUP_AXES.search(attributes):
        sizes = {name: int(size) for name, size in _SIZE.findall(axes[1])}
        return math.prod(int(part or sizes[name]) for name, part in _AXIS.findall(axes[2]))
    return 0


def _array_bytes(kind: str) -> Iterator[int]:
    """Yield the bytes of each array of a type, ``f32[8,4]{1,0}`` or a tuple of such types."""
    for name, bits, sizes in _SHAPE.findall(kind):
        width = 8 if name == "pred" else int(bits)
        yield math.ceil(width * math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size) / 8)
