"""List experiments by folder, with their presets and papers, without executing them."""

import argparse
from itertools import groupby

from rich.table import Table

from jaxrep.commands.output import console, one_line
from jaxrep.experiment_files import list_experiments


def main(args: list[str]) -> int:
    """Run ``jaxrep list [FOLDER] [--match PATTERN]``."""
    parser = argparse.ArgumentParser(prog="jaxrep list", description=__doc__)
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="where to look (default: the folder experiments of this checkout, and the one that came with jaxrep)",
    )
    parser.add_argument(
        "--match", metavar="PATTERN", default="", help="part of a name, a folder or a paper; * and ? are wildcards"
    )
    given = parser.parse_args(args)
    files = [file for file in list_experiments(given.folder) if file.matches(given.match)]
    table = Table("experiment", "presets", "paper")
    for folder, members in groupby(files, key=lambda file: file.folder):
        if folder:
            table.add_section()
            table.add_row(one_line(f"{folder}/"))
        for file in members:
            table.add_row(*map(one_line, (file.name, " ".join(file.presets), file.paper)))
    console().print(table)
    return 0
