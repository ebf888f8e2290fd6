"""Lists the experiments of a folder with their presets and what they are; executes none of them."""

import argparse

from rich.console import Console
from rich.table import Table

from jaxrep.experiment import list_experiments


def main(args: list[str]) -> int:
    """``jaxrep list [FOLDER]``"""
    parser = argparse.ArgumentParser(prog="jaxrep list", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default="experiments", help="(default: experiments)")
    table = Table("experiment", "presets", "what it is")
    for file, doc, presets in list_experiments(parser.parse_args(args).folder):
        table.add_row(str(file), " ".join(presets), doc)
    Console(highlight=False, markup=False).print(table)
    return 0
