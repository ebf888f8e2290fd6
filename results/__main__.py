"""Measure at small scale whether a recipe shows what its paper claims.

``python -m results NAME ...`` measures rows; the same command resumes a stopped one. ``--write`` puts all measured rows
into docs/recipes.md. Runs are kept in ``runs/effects``, or in ``--folder``.
"""

import argparse
import logging
from pathlib import Path

from results.measure import KEPT, measure_row, table
from results.rows import EFFECTS

ROOT = KEPT.parents[1]
BEGIN, END = "<!-- effects: python -m results --write -->\n", "\n<!-- end of effects -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m results", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", choices=[*EFFECTS, []], help=", ".join(EFFECTS))
    parser.add_argument("--folder", metavar="DIR", type=Path, default=ROOT / "runs" / "effects")
    parser.add_argument("--write", action="store_true", help="write the table of docs/recipes.md")
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("jaxrep.results").setLevel(logging.INFO)
    for name in given.names:
        measure_row(name, EFFECTS[name], given.folder)
    if given.write:
        page = ROOT / "docs" / "recipes.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}{table(EFFECTS)}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
