"""Writes the model of a run as a folder that transformers or open_clip loads, or as plain safetensors."""

import argparse
import shutil
from pathlib import Path

from jaxrep.commands.models import add_arguments
from jaxrep.errors import UsageError

SAFETENSORS = ("recipe.json", "tokenizer.json")
"""Files of a run that go with its plain weights."""


def main(args: list[str]) -> int:
    """``jaxrep export RUN --to transformers|open_clip|safetensors --out DIR [--part NAME]``"""
    parser = argparse.ArgumentParser(prog="jaxrep export", description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--to",
        choices=("transformers", "open_clip", "safetensors"),
        required=True,
        help="whose layout; safetensors: jaxrep's own names, of any model, with its recipe",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a folder that is new or empty")
    parser.add_argument("--part", metavar="NAME", default="", help="one image tower alone, as a ViT of transformers")
    given = parser.parse_args(args)
    _check(given)
    made = not given.out.exists()
    given.out.mkdir(exist_ok=True)
    try:
        export(given)
    except UsageError:
        if made:
            shutil.rmtree(given.out)
        raise
    print(f"wrote {', '.join(sorted(file.name for file in given.out.iterdir()))} to {given.out}")
    return 0


def _check(given: argparse.Namespace) -> None:
    """What can be told before the run is read. Raises UsageError."""
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise UsageError(f"--out {given.out} is there already: name a folder that is new or empty")
    if not given.out.parent.is_dir():
        raise UsageError(f"--out {given.out} cannot be made: there is no folder {given.out.parent}")
    if given.part and given.to != "transformers":
        raise UsageError("--part names a tower that is exported --to transformers")


def export(given: argparse.Namespace) -> None:
    """Reads the run and writes its model into the folder. Raises UsageError."""
    import numpy as np

    from jaxrep.data.fields import batch_fields
    from jaxrep.pretrained import export as layouts
    from jaxrep.pretrained.tensors import write
    from jaxrep.runs.restore import restore
    from jaxrep.runs.run_dir import RunDir
    from jaxrep.step.shapes import trace_shapes

    restored = restore(given.run, given.weights, given.checkpoint)
    arrays = {path: np.asarray(value) for path, value in restored.arrays.items()}
    if given.to == "safetensors":
        write(given.out, arrays)
        for name in SAFETENSORS:
            if (file := given.run / name).is_file():
                shutil.copyfile(file, given.out / name)
        return
    data = restored.recipe.data
    trained = layouts.Trained(
        method=restored.recipe.method,
        fields=trace_shapes(restored.recipe, batch_fields(data.train, data.tokenizer, data.texts)).fields,
        arrays=arrays,
        tokenizer=data.tokenizer,
        loaded=RunDir(given.run).tokenizer(restored.recipe, tuple),
    )
    trained = layouts.tower_of(trained, given.part) if given.part else trained
    open_clip = given.to == "open_clip"
    layouts.export(trained, layouts.OPEN_CLIP if open_clip else layouts.transformers_layout(trained.method), given.out)
