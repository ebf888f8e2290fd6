"""Write the model of a run as a folder that transformers or open_clip loads, as plain safetensors, or as StableHLO.

The folder has a model card (README.md), written from the recipe and its measured results. --push uploads it to a hub.
"""

import argparse
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrep import hub
from jaxrep.commands.models import add_arguments, refuse_run_options, trust_runs
from jaxrep.commands.output import echo
from jaxrep.errors import JaxrepError, UsageError, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from jaxrep.batch import Field
    from jaxrep.data.tokenizers.base import LoadedTokenizer, Tokenizer
    from jaxrep.methods.base import Method
    from jaxrep.params import Structure
    from jaxrep.pretrained.image_transform import ImageTransform
    from jaxrep.runs.restore import Restored

LAYOUTS = ("transformers", "open_clip", "safetensors", "stablehlo")


def main(args: list[str]) -> int:
    """Run ``jaxrep export RUN --to LAYOUT [--out DIR] [--push ORG/NAME] [--license ID] [--part NAME]``."""
    parser = argparse.ArgumentParser(prog="jaxrep export", description=__doc__)
    add_arguments(parser, help="a run directory; with --to stablehlo also a public checkpoint")
    parser.add_argument(
        "--to",
        choices=LAYOUTS,
        required=True,
        help="the layout; safetensors writes any model under jaxrep's own names, with its recipe; stablehlo writes "
        "towers as programs that run with JAX alone, for any number of rows, on CPUs, GPUs and TPUs",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new or empty folder; optional with --push")
    parser.add_argument(
        "--part", metavar="NAME", default="", help="one tower alone: an image tower as a ViT of transformers, or any"
    )
    parser.add_argument(
        "--push", metavar="ORG/NAME", default="", help="upload the folder to this repository of a hub (extra hub)"
    )
    parser.add_argument("--license", metavar="ID", default="", help="the license that the model card states, as mit")
    given = parser.parse_args(args)
    _check(given)
    with contextlib.ExitStack() as closing:
        given.stays = given.out is not None
        if not given.stays:
            given.out = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="jaxrep-")))
        created = not given.out.exists()
        given.out.mkdir(exist_ok=True)
        try:
            export(given)
        except UsageError:
            if created:
                shutil.rmtree(given.out)
            raise
        names = ", ".join(sorted(file.name for file in given.out.iterdir()))
        echo(f"uploaded {names} to {_push(given)}" if given.push else f"wrote {names} to {given.out}")
    return 0


def _push(given: argparse.Namespace) -> str:
    """Upload the folder; return its address. An error says where the export is, if it stays."""
    try:
        return hub.upload(given.out, given.push)
    except JaxrepError as error:
        stays = f"; the export is in {given.out}, and `hf upload {given.push} {given.out}` uploads it"
        raise type(error)(f"{error}{stays if given.stays else ''}") from error


def _check(given: argparse.Namespace) -> None:
    """Raise UsageError for wrong arguments, before the run is read."""
    if given.push:
        hub.check_repository(given.push)
    if given.out is None:
        if not given.push:
            raise UsageError("name a folder by --out, or a repository by --push")
    elif given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise UsageError(f"--out {given.out} exists: name a folder that is new or empty")
    elif not given.out.parent.is_dir():
        raise UsageError(f"--out {given.out} cannot be created: there is no folder {given.out.parent}")
    if given.part and given.to not in ("transformers", "stablehlo"):
        raise UsageError("--part names a tower that is exported --to transformers or stablehlo")


def export(given: argparse.Namespace) -> None:
    """Read the model, and write it and its card into the folder.

    Raises:
        UsageError: the layout cannot express the model.
    """
    from jaxrep.pretrained.load import is_checkpoint

    if is_checkpoint(given.run):
        _export_checkpoint(given)
    else:
        _export_run(given)


def _export_checkpoint(given: argparse.Namespace) -> None:
    import numpy as np

    from jaxrep.pretrained.load import load_tokenizer, read

    if given.to != "stablehlo":
        raise UsageError(f"{given.run} is a public checkpoint already: it exports --to stablehlo")
    refuse_run_options(given)
    checkpoint = read(given.run)
    arrays = {path: np.asarray(value) for path, value in checkpoint.arrays().items()}
    described = checkpoint.architecture
    tokenizer = described.tokenizer
    load = lambda: load_tokenizer(tokenizer) if tokenizer else None  # noqa: E731
    fields, model = described.fields, (checkpoint.structure, described.fields, arrays)
    programs = _export_programs(given, model, described.transform, tokenizer, load)
    _write_card(given, described.model, fields, arrays, **programs)


def _export_run(given: argparse.Namespace) -> None:
    import numpy as np

    from jaxrep.pretrained import export as layouts
    from jaxrep.pretrained.tensors import write
    from jaxrep.runs.restore import restore
    from jaxrep.runs.run_dir import RunDir
    from jaxrep.step.shapes import trace_shapes

    trust_runs(given, [given.run])
    restored = restore(given.run, given.weights, given.checkpoint)
    arrays, traced = {path: np.asarray(value) for path, value in restored.arrays.items()}, trace_shapes(restored.recipe)
    method, fields, tokenizer = restored.recipe.method, traced.fields, restored.recipe.data.tokenizer
    load, programs = lambda: RunDir(given.run).tokenizer(restored.recipe, tuple), {}
    if given.to == "safetensors":
        write(given.out, arrays)
        _copy_declarations(given.run, given.out)
    elif given.to == "stablehlo":
        programs = _export_programs(given, (traced.structure, fields, arrays), None, tokenizer, load)
    else:
        trained = layouts.Trained(method, fields, arrays, tokenizer, load())
        trained = layouts.single_tower(trained, given.part) if given.part else trained
        open_clip = given.to == "open_clip"
        layout = layouts.OPEN_CLIP if open_clip else layouts.transformers_layout(trained.method)
        layouts.export(trained, layout, given.out)
        method, arrays = trained.method, trained.arrays
    _write_card(given, method, fields, arrays, restored, **programs)


def _export_programs(
    given: argparse.Namespace,
    model: "tuple[Structure, Mapping[str, Field], Mapping[str, np.ndarray]]",
    transform: "ImageTransform | None",
    tokenizer: "Tokenizer | None",
    load: "Callable[[], LoadedTokenizer | None]",
) -> dict[str, Any]:
    """Write the programs of towers and what makes their inputs; return what the card states of them.

    Args:
        given: the command.
        model: its structure, fields and arrays.
        transform: of images; None: the nearest to that of ``Model.preprocess``.
        tokenizer: of the model.
        load: returns the tokenizer's vocabulary, which a model without texts need not have.
    """
    from jaxrep.pretrained.stablehlo import export_towers, inputs_of, write_preprocessing

    structure, fields, arrays = model
    towers = export_towers(structure, arrays, fields, given.out, [given.part] if given.part else [])
    inputs = {name: field for tower in towers for name, field in inputs_of(tower, fields).items()}
    loaded = load() if any(name.endswith("/valid") for name in inputs) else None
    if wrong := write_preprocessing(given.out, inputs, transform, tokenizer, loaded):
        echo(f"no tokenizer is written: {wrong}")
    return {"towers": towers, "pad": loaded.pad if loaded else None}


def _copy_declarations(run: Path, folder: Path) -> None:
    """Copy the recipe, without passwords and tokens, and the vocabulary of a run."""
    from jaxrep.experiment import RECIPE
    from jaxrep.runs.layout import TOKENIZER

    for name in (RECIPE, TOKENIZER):
        if (file := run / name).is_file():
            text = file.read_text(encoding="utf-8")
            (folder / name).write_text(without_secrets(text) if name == RECIPE else text, encoding="utf-8")


def _write_card(
    given: argparse.Namespace,
    method: "Method",
    fields: "Mapping[str, Field]",
    arrays: "Mapping[str, np.ndarray]",
    restored: "Restored | None" = None,
    *,
    towers: "Sequence[str]" = (),
    pad: int | None = None,
) -> None:
    """Write README.md; ``restored`` is the checkpoint of a run; ``towers`` have programs, that pad texts by ``pad``."""
    from jaxrep.pretrained.model_card import CARD, Card, needs_experiment

    code = given.to == "safetensors" and restored is not None and needs_experiment(restored.recipe)
    loads = given.to != "stablehlo" and not code
    card = Card(
        name=given.push or given.out.name,
        layout=given.to,
        method=method,
        fields=fields,
        arrays=arrays,
        address=(f"{hub.PREFIX}{given.push}" if given.push else str(given.out.name)) if loads else "",
        license=given.license,
        towers=towers,
        pad=pad if (given.out / "tokenizer.json").is_file() else None,
        **(_facts(given, restored) if restored else {}),
    )
    (given.out / CARD).write_text(card.text(), encoding="utf-8")


def _facts(given: argparse.Namespace, restored: "Restored") -> dict[str, Any]:
    """Return what a run knows of its weights. Its results are those of the weights that evaluations use."""
    from jaxrep.experiment_files import declared
    from jaxrep.report.run_facts import read_run

    run = read_run(given.run)
    last = bool(run.results) and restored.step == run.step
    line = next((line for line in run.lines if line["step"] == restored.step), {})
    names = tuple(f"{evaluation.name}/" for evaluation in restored.recipe.evals)
    results = run.metrics if last else {name: value for name, value in line.items() if name.startswith(names)}
    papers = [declared(copy)[1] for copy in sorted(given.run.glob("*.py"))]
    return {
        "recipe": restored.recipe,
        "paper": next(iter(papers), ""),
        "results": {} if given.part or given.weights != "auto" else {k: v for k, v in results.items() if v is not None},
        "step": restored.step,
        "environment": run.environment,
    }
