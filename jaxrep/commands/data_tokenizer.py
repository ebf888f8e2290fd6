"""Trains a tokenizer on the captions of a source, and writes it as a tokenizer.json."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jaxrep.commands.models import check_out
from jaxrep.data.source import Examples
from jaxrep.data.source_string import parse_source
from jaxrep.data.tools.train_tokenizer import PAD, train
from jaxrep.data.tools.try_each import read_text, reason, try_each
from jaxrep.errors import UsageError
from jaxrep.storage import write_file


def main(args: list[str]) -> int:
    """``jaxrep data tokenizer SOURCE --out tokenizer.json [--kind bpe|wordpiece] [--size N] [--keep-case]``"""
    parser = argparse.ArgumentParser(prog="jaxrep data tokenizer", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="where the captions are (see jaxrep data --help)")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the tokenizer.json to write")
    parser.add_argument("--kind", choices=("bpe", "wordpiece"), default="bpe", help="(default: bpe)")
    parser.add_argument("--size", type=int, default=32_768, metavar="N", help="entries at most (default: 32768)")
    parser.add_argument("--keep-case", action="store_true", help="tell capital letters from small ones")
    given = parser.parse_args(args)
    check_out(given.out)
    source = parse_source(given.source)
    if "text" not in source.fields():
        raise UsageError(f"{given.source} has no captions")
    bad: Counter[str] = Counter()
    tokenizer = train(texts(source.open(), bad), given.kind, given.size, not given.keep_case)
    write_file(str(given.out), tokenizer.to_str(pretty=True).encode())
    entries = tokenizer.get_vocab_size()
    print(f"wrote {entries:,} entries to {given.out}")
    print(f"a recipe uses it by TokenizerFile(path='{given.out}', entries={entries}, pad='{PAD}', length=…)")
    for told, count in bad.items():
        print(f"{count:,} captions left out: {told}", file=sys.stderr)
    return 0


def texts(examples: Examples, bad: Counter[str]) -> Iterator[str]:
    """The captions, and into ``bad`` why others cannot be read."""
    for found in try_each(lambda index: read_text(examples, index), len(examples), "reading captions"):
        if isinstance(found, tuple):
            yield from found
        else:
            bad[reason(found)] += 1
