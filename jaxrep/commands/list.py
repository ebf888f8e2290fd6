"""List experiments by folder, with their presets and papers, without executing them."""

import argparse
from itertools import groupby

from rich.console import Console
from rich.table import Table

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
            table.add_row(f"{folder}/")
        for file in members:
            table.add_row(file.name, " ".join(file.presets), file.paper)
    Console(highlight=False, markup=False).print(table)
    return 0
