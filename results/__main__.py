"""Measure at small scale whether a recipe shows what its paper claims.

``python -m results`` measures every row whose recipes or evaluations changed since it was kept, and ``python -m results
NAME ...`` those rows. A stopped command is resumed by the same command. ``itself`` measures the laboratory.
``--write`` puts all measured rows into docs/recipes.md. Runs are kept in ``runs/effects``, or in ``--folder``.
"""

import argparse
import json
import logging
from pathlib import Path

from jaxrep.training.compilation import enable_compilation_cache
from results.comparison import comparison
from results.itself import FILE, measure_itself, sentence
from results.measure import KEPT, Pieces, is_current, measure_row, table
from results.rows import EFFECTS
from results.siamese import LEARNERS

ROOT = KEPT.parents[1]
BEGIN, END = "<!-- effects: python -m results --write -->\n", "\n<!-- end of effects -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m results", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", choices=[*EFFECTS, "itself", []], help=", ".join(EFFECTS))
    parser.add_argument("--folder", metavar="DIR", type=Path, default=ROOT / "runs" / "effects")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no further run after so many minutes"
    )
    parser.add_argument("--write", action="store_true", help="write the table of docs/recipes.md, and measure nothing")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("jaxrep.results").setLevel(logging.INFO)
    if options.write:
        write()
        return
    enable_compilation_cache()
    pieces = Pieces(options.minutes)
    for name in options.names or [*(["itself"] if not FILE.exists() else []), *stale()]:
        if name == "itself":
            measure_itself(EFFECTS["siglip"], options.folder, pieces)
        else:
            measure_row(name, EFFECTS[name], options.folder, pieces)


def stale() -> list[str]:
    """Return the rows that are not measured, or were measured with other recipes."""
    return [name for name, effect in EFFECTS.items() if not is_current(name, effect)]


def write() -> None:
    """Write the table, and what the laboratory can tell, into docs/recipes.md."""
    page = ROOT / "docs" / "recipes.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    itself = f"{sentence(json.loads(FILE.read_text(encoding='utf-8')))}\n\n" if FILE.exists() else ""
    tables = "\n\n".join(filter(None, (table(EFFECTS), comparison(LEARNERS))))
    page.write_text(f"{before}{BEGIN}{itself}{tables}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
