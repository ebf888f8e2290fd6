"""Memory a chip against the global batch: the plain loss and the linear one, each without and with microbatches.

    python -m benchmarks.memory experiments/clip.py:vit_l14 --topology v5e:16x16 --fsdp 16 --microbatch 32768 \\
        --batches 32768 131072 1048576 --out memory.json

Every row is a plan (``jaxrep plan``): compiled for chips that need not be there, minutes each, with nothing allocated.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrep.plan.topology import devices, memory_bytes, prepare

FORMS = ("plain", "linear", "plain, microbatches", "linear, microbatches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="FILE[:NAME]", help="a recipe whose one term is Contrastive")
    parser.add_argument("--topology", default="v5e:16x16")
    parser.add_argument("--fsdp", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[32_768, 131_072, 1_048_576])
    parser.add_argument("--microbatch", type=int, default=32_768)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--out", type=Path, default=Path("memory.json"))
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
            given.out.write_text(json.dumps(rows, indent=1))


def measure(form: str, batch: int, given: argparse.Namespace) -> dict[str, Any]:
    """One row: bytes a device, whether they fit, and what the plan says where they do not."""
    from jaxrep.experiment import load
    from jaxrep.plan.plan import plan
    from jaxrep.plan.report import verdict

    recipe = load(given.recipe).recipe
    term: Any
    ((name, term),) = recipe.objective.items()
    objective = {name: plain(term.a, term.b)} if form.startswith("plain") else recipe.objective
    towers = {f"method.towers.{name}.remat": "full" for name in recipe.method.towers}  # pyright: ignore
    recipe = recipe.replace(
        {**towers, "data.batch_size": batch, "mesh.fsdp": given.fsdp, "log.embedding_metrics": False},
        objective=objective,
        microbatch_size=given.microbatch if form.endswith("microbatches") else 0,
    )
    chips = devices(given.topology)
    found = plan(recipe, chips, memory_bytes(chips[0]))
    return {
        "form": form,
        "batch": batch,
        "temporaries": found.memory.temporaries,
        "total": found.memory.total,
        "fits": found.fits,
        "problem": verdict(recipe, found),
    }


def plain(one: str, other: str) -> Any:
    """The term of the plain loss, with the whole matrix of logits."""
    from jaxrep.batch import normalize
    from jaxrep.losses.contrastive import plain_info_nce
    from jaxrep.objectives.contrastive import Contrastive

    @dataclass(frozen=True)
    class Plain(Contrastive):
        def __call__(self, outputs, batch, ctx):
            return plain_info_nce(normalize(outputs[self.a]), normalize(outputs[self.b]), outputs[self.scale]), {}

    return Plain(one, other)


def in_table(row: Mapping[str, Any]) -> dict[str, Any]:
    from jaxrep.plan.report import in_words

    return {**row, **{name: in_words(row[name]) for name in ("temporaries", "total")}}


if __name__ == "__main__":
    main()
