"""Whether what a paper claims is seen at small scale.

``python -m results NAME …`` measures rows; stopped, the same command goes on. ``--write`` puts all rows that are
measured into docs/recipes.md. Runs are kept in ``runs/effects``, or where ``--folder`` says.
"""

import argparse
from pathlib import Path

from results.measure import ROOT, run, table
from results.rows import EFFECTS

BEGIN, END = "<!-- effects: python -m results --write -->\n", "\n<!-- end of effects -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m results", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", choices=[*EFFECTS, []], help=", ".join(EFFECTS))
    parser.add_argument("--folder", metavar="DIR", type=Path, default=ROOT / "runs" / "effects")
    parser.add_argument("--write", action="store_true", help="write the table of docs/recipes.md")
    given = parser.parse_args()
    for name in given.names:
        run(name, EFFECTS[name], given.folder, lambda text: print(text, flush=True))
    if given.write:
        page = ROOT / "docs" / "recipes.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}{table(EFFECTS)}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
