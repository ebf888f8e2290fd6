r"""Plan memory per chip against the global batch: plain and linear loss, each without and with microbatches.

    python -m benchmarks.memory clip:vit_l14 --topology v5e:16x16 --fsdp 16 --microbatch 32768 \
        --batches 32768 131072 1048576 --out memory.json

Each row is a plan (``jaxrep plan``): what the compiler lays out, without allocation, for chips that this machine need
not have.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrep.plan.topology import devices, memory_bytes, prepare

FORMS = ("plain", "linear", "plain, microbatches", "linear, microbatches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="EXPERIMENT", help="a recipe whose only term is Contrastive")
    parser.add_argument("--topology", default="v5e:16x16")
    parser.add_argument("--fsdp", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[32_768, 131_072, 1_048_576])
    parser.add_argument("--microbatch", type=int, default=32_768)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    prepare(given.topology)
    rows = []
    print("| global batch | loss | temporaries | total | fits |\n| --- | --- | --- | --- | --- |", flush=True)
    for form in given.forms:
        for batch in given.batches:
            if form.endswith("microbatches") and batch <= given.microbatch:
                continue
            rows.append(measure(form, batch, given))
            print(
                "| {batch:,} | {form} | {temporaries} | {total} | {fits} |".format_map(in_table(rows[-1])), flush=True
            )
            if given.out:
                given.out.write_text(json.dumps(rows, indent=1))


def measure(form: str, batch: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return one row: bytes per device, whether they fit, and otherwise the plan's message."""
    from benchmarks.plain_loss import Plain
    from jaxrep.experiment import load
    from jaxrep.plan.layout_process import plan_layout
    from jaxrep.plan.report import memory_problem

    recipe = load(given.recipe).recipe
    term: Any
    ((name, term),) = recipe.objective.items()
    objective = {name: Plain(term.a, term.b)} if form.startswith("plain") else recipe.objective
    towers = {f"method.towers.{name}.remat": "full" for name in recipe.method.towers}  # pyright: ignore
    recipe = recipe.replace(
        {**towers, "data.batch_size": batch, "mesh.fsdp": given.fsdp, "log.embedding_metrics": False},
        objective=objective,
        microbatch_size=given.microbatch if form.endswith("microbatches") else 0,
    )
    chips = devices(given.topology)
    planned = plan_layout(recipe, given.topology, memory_bytes(chips[0]))
    return {
        "form": form,
        "batch": batch,
        "temporaries": planned.memory.temporaries,
        "total": planned.memory.total,
        "fits": planned.fits,
        "problem": memory_problem(recipe, planned),
    }


def in_table(row: Mapping[str, Any]) -> dict[str, Any]:
    from jaxrep.plan.report import format_bytes

    return {**row, **{name: format_bytes(row[name]) for name in ("temporaries", "total")}}


if __name__ == "__main__":
    main()
