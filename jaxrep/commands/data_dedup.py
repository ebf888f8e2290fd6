"""Find images that occur more than once in a source, or both in a source and an evaluation set."""

import argparse
import json
from pathlib import Path
from typing import Any

from jaxrep.commands.data import check_readable, tool_parser
from jaxrep.commands.models import check_out, number
from jaxrep.data.source_string import parse_source
from jaxrep.data.tools.dedup import Fingerprints, fingerprint, groups, shared
from jaxrep.errors import UsageError
from jaxrep.storage import utf8, write_file


def main(args: list[str]) -> int:
    """Run ``jaxrep data dedup SOURCE [--against SOURCE] [--hash dhash|phash] [--distance N] [--out FILE.json]``."""
    parser = tool_parser("dedup", __doc__)
    parser.add_argument("--against", metavar="SOURCE", help="evaluation set whose images the source should not have")
    parser.add_argument("--hash", choices=("dhash", "phash"), default="dhash", help="perceptual hash (default: dhash)")
    parser.add_argument(
        "--distance", type=number(0, 16), default=3, metavar="N", help="bits of 64 that may differ (default: 3)"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="write all groups of keys as JSON")
    given = parser.parse_args(args)
    check_out(given.out)
    names = [name for name in (given.source, given.against) if name]
    sources = [parse_source(name) for name in names]
    for name, source in zip(names, sources, strict=True):
        if "image" not in source.fields():
            raise UsageError(f"{name} has no images")
    train, *test = prints = [fingerprint(source.open(), given.hash) for source in sources]
    for name, hashed in zip(names, prints, strict=True):
        check_readable(len(hashed.indices), name)
    result = report(train, given.distance)
    if test:
        result |= overlap(train, test[0], given.distance)
    if given.out:
        write_file(str(given.out), utf8(json.dumps(result, indent=1, ensure_ascii=False)))
    print("\n".join(lines(result, given)))
    return 0


def report(prints: Fingerprints, distance: int) -> dict[str, Any]:
    """Return groups of equal and of nearly equal images, as keys of examples."""
    copies = {"exact": groups(prints.digests), "near": groups(prints.hashes, distance)}
    named = {kind: [[prints.key(i) for i in group] for group in some] for kind, some in copies.items()}
    return {"examples": len(prints.indices), "bad": prints.bad, **named}


def overlap(train: Fingerprints, test: Fingerprints, distance: int) -> dict[str, Any]:
    """Return the images that both sets have, as (key in the test set, key in the training set)."""
    pairs = {
        "shared_exact": shared(train.digests, test.digests, 0),
        "shared_near": shared(train.hashes, test.hashes, distance),
    }
    keys = {kind: [(test.key(b), train.key(a)) for a, b in some] for kind, some in pairs.items()}
    return {"against": len(test.indices), "against_bad": test.bad, **keys}


def lines(result: dict[str, Any], given: argparse.Namespace) -> list[str]:
    """Return the result as text."""
    text = [f"{result['examples']:,} images read, {sum(result['bad'].values()):,} unreadable"]
    near = f"within {given.distance} bits of {given.hash}"
    for kind, what in (("exact", "the same file"), ("near", near)):
        copies = result[kind]
        text.append(f"{what}: {len(copies):,} groups, {sum(map(len, copies)) - len(copies):,} redundant images")
    if "against" in result:
        bad = sum(result["against_bad"].values())
        text += [
            f"of {result['against']:,} images of {given.against} ({bad:,} unreadable):",
            f"  {len(result['shared_exact']):,} are in {given.source} as the same file",
            f"  {len(result['shared_near']):,} are in it {near}",
        ]
    return text
