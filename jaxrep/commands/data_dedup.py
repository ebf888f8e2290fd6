"""Finds pictures that a source holds more than once, and those of an evaluation set that it holds as well."""

import argparse
import json
from pathlib import Path
from typing import Any

from jaxrep.commands.models import check_out
from jaxrep.data.source import Examples
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tools.dedup import Prints, groups, prints, shared
from jaxrep.errors import UsageError
from jaxrep.storage import write_file


def main(args: list[str]) -> int:
    """``jaxrep data dedup SOURCE [--against SOURCE] [--hash dhash|phash] [--distance N] [--out FILE.json]``"""
    parser = argparse.ArgumentParser(prog="jaxrep data dedup", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="what to search (see jaxrep data --help)")
    parser.add_argument(
        "--against", metavar="SOURCE", help="an evaluation set, of which the source should hold nothing"
    )
    parser.add_argument("--hash", choices=("dhash", "phash"), default="dhash", help="of nearly equal pictures")
    parser.add_argument("--distance", type=int, default=3, metavar="N", help="bits of 64 that may differ (default: 3)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write all groups, by the keys of examples, as JSON")
    given = parser.parse_args(args)
    check_out(given.out)
    if not 0 <= given.distance <= 16:
        raise UsageError(f"--distance counts bits, 0 to 16, not {given.distance}")
    sources = [parse_source(name) for name in (given.source, given.against) if name]
    for name, source in zip((given.source, given.against), sources, strict=False):
        if "image" not in source.fields():
            raise UsageError(f"{name} has no pictures")
    found = [(examples, prints(examples, given.hash)) for examples in (source.open() for source in sources)]
    result = report(*found[0], given.distance) | (overlap(found[0], found[1], given.distance) if given.against else {})
    if given.out:
        write_file(str(given.out), json.dumps(result, indent=1, ensure_ascii=False).encode())
    print("\n".join(lines(result, given)))
    return 0


def report(examples: Examples, held: Prints, distance: int) -> dict[str, Any]:
    """Groups of equal and of nearly equal pictures, by the keys of examples."""
    exact, like = groups(held.digests), groups(held.hashes, distance)
    return {
        "examples": len(held.indices),
        "bad": held.bad,
        "exact": [[name(examples, held, place) for place in group] for group in exact],
        "near": [[name(examples, held, place) for place in group] for group in like],
    }


def overlap(train: tuple[Examples, Prints], test: tuple[Examples, Prints], distance: int) -> dict[str, Any]:
    """What the second set shares with the first: (key there, key here)."""
    pairs = {
        "shared_exact": shared(train[1].digests, test[1].digests, 0),
        "shared_near": shared(train[1].hashes, test[1].hashes, distance),
    }
    told = {what: [(name(*test, b), name(*train, a)) for a, b in found] for what, found in pairs.items()}
    return {"against": len(test[1].indices), "against_bad": test[1].bad, **told}


def name(examples: Examples, held: Prints, place: int) -> str:
    """What an example is called: its key, or its index."""
    index = int(held.indices[place])
    return examples.key(index) if isinstance(examples, EncodedExamples) else str(index)


def lines(result: dict[str, Any], given: argparse.Namespace) -> list[str]:
    """The result in words."""
    text = [f"{result['examples']:,} pictures read, {sum(result['bad'].values()):,} not"]
    for kind, what in (("exact", "the same file"), ("near", f"within {given.distance} bits of {given.hash}")):
        found = result[kind]
        text.append(f"{what}: {len(found):,} groups, {sum(map(len, found)) - len(found):,} pictures more than needed")
    if "against" in result:
        text.append(
            f"of {result['against']:,} pictures of {given.against} ({sum(result['against_bad'].values()):,} not read):"
        )
        text.append(f"  {len(result['shared_exact']):,} are in {given.source} as the same file")
        text.append(f"  {len(result['shared_near']):,} are in it within {given.distance} bits of {given.hash}")
    return text
