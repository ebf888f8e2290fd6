"""Train a tokenizer on the captions of a source, and write it as a tokenizer.json."""

import sys
from pathlib import Path

from jaxrep.commands.data import tool_parser
from jaxrep.commands.models import check_out, number
from jaxrep.commands.output import echo
from jaxrep.data.source_string import parse_source
from jaxrep.data.tools.reading import Failures, read_all, read_texts
from jaxrep.data.tools.train_tokenizer import PAD, train
from jaxrep.errors import UsageError
from jaxrep.storage import write_file


def main(args: list[str]) -> int:
    """Run ``jaxrep data tokenizer SOURCE --out tokenizer.json [--kind bpe|wordpiece] [--size N] [--keep-case]``."""
    parser = tool_parser("tokenizer", __doc__, "source of the captions")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the tokenizer.json to write")
    parser.add_argument("--kind", choices=("bpe", "wordpiece"), default="bpe", help="algorithm (default: bpe)")
    parser.add_argument("--size", type=number(1), default=32_768, metavar="N", help="maximum size (default: 32768)")
    parser.add_argument("--keep-case", action="store_true", help="distinguish capital and small letters")
    given = parser.parse_args(args)
    check_out(given.out)
    source = parse_source(given.source)
    if "text" not in source.fields():
        raise UsageError(f"{given.source} has no captions")
    examples, failures = source.open(), Failures()
    rows = read_all(lambda index: read_texts(examples, index), range(len(examples)), "reading captions", failures)
    tokenizer = train((text for _, texts in rows for text in texts), given.kind, given.size, not given.keep_case)
    write_file(str(given.out), tokenizer.to_str(pretty=True).encode())
    entries = tokenizer.get_vocab_size()
    echo(f"wrote {entries:,} entries to {given.out}")
    echo(f"in a recipe: TokenizerFile(path='{given.out}', entries={entries}, pad='{PAD}', length=…)")
    for reason, count in failures.counts.items():
        echo(f"{count:,} unreadable: {reason}", file=sys.stderr)
    return 0
