"""Write the model of a run as a folder that transformers or open_clip loads, or as plain safetensors."""

import argparse
import shutil
from pathlib import Path

from jaxrep.commands.models import add_arguments, trust_runs
from jaxrep.commands.output import echo
from jaxrep.errors import UsageError

SAFETENSORS = ("recipe.json", "tokenizer.json")
"""Files of a run that are copied beside its plain weights."""


def main(args: list[str]) -> int:
    """Run ``jaxrep export RUN --to transformers|open_clip|safetensors --out DIR [--part NAME]``."""
    parser = argparse.ArgumentParser(prog="jaxrep export", description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--to",
        choices=("transformers", "open_clip", "safetensors"),
        required=True,
        help="the layout; safetensors writes any model under jaxrep's own names, with its recipe",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--part", metavar="NAME", default="", help="one image tower alone, as a ViT of transformers")
    given = parser.parse_args(args)
    _check(given)
    created = not given.out.exists()
    given.out.mkdir(exist_ok=True)
    try:
        export(given)
    except UsageError:
        if created:
            shutil.rmtree(given.out)
        raise
    echo(f"wrote {', '.join(sorted(file.name for file in given.out.iterdir()))} to {given.out}")
    return 0


def _check(given: argparse.Namespace) -> None:
    """Raise UsageError for wrong arguments, before the run is read."""
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise UsageError(f"--out {given.out} exists: name a folder that is new or empty")
    if not given.out.parent.is_dir():
        raise UsageError(f"--out {given.out} cannot be created: there is no folder {given.out.parent}")
    if given.part and given.to != "transformers":
        raise UsageError("--part names a tower that is exported --to transformers")


def export(given: argparse.Namespace) -> None:
    """Read the run, and write its model into the folder.

    Raises:
        UsageError: the layout cannot express the model.
    """
    import numpy as np

    from jaxrep.pretrained import export as layouts
    from jaxrep.pretrained.tensors import write
    from jaxrep.runs.restore import restore
    from jaxrep.runs.run_dir import RunDir
    from jaxrep.step.shapes import trace_shapes

    trust_runs(given, [given.run])
    restored = restore(given.run, given.weights, given.checkpoint)
    arrays = {path: np.asarray(value) for path, value in restored.arrays.items()}
    if given.to == "safetensors":
        write(given.out, arrays)
        for name in SAFETENSORS:
            if (file := given.run / name).is_file():
                shutil.copyfile(file, given.out / name)
        return
    trained = layouts.Trained(
        method=restored.recipe.method,
        fields=trace_shapes(restored.recipe).fields,
        arrays=arrays,
        tokenizer=restored.recipe.data.tokenizer,
        loaded=RunDir(given.run).tokenizer(restored.recipe, tuple),
    )
    trained = layouts.single_tower(trained, given.part) if given.part else trained
    open_clip = given.to == "open_clip"
    layouts.export(trained, layouts.OPEN_CLIP if open_clip else layouts.transformers_layout(trained.method), given.out)
