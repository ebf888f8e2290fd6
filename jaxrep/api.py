"""The front door: train, evaluate, embed, and open runs and models from Python."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from jaxrep.data.source import Source
from jaxrep.embeddings.embed_source import embed_source
from jaxrep.errors import UsageError
from jaxrep.evals.base import Eval, name_conflicts, run_evals
from jaxrep.experiment import experiment_of, load_evals, trust_run
from jaxrep.experiment import load as load_experiment
from jaxrep.model import Model
from jaxrep.pretrained.load import is_checkpoint, load_checkpoint
from jaxrep.recipe import Recipe
from jaxrep.runs.remote import fetch_run
from jaxrep.runs.restore import load_run
from jaxrep.runs.run import Run
from jaxrep.spec import problems
from jaxrep.spec_json import fingerprint
from jaxrep.training import loop
from jaxrep.training.compilation import enable_compilation_cache
from jaxrep.training.warm_start import trust_code

AnyModel = Model | Run | str | PathLike[str]
"""A model, a run, or the path, URL or address on a hub of a run or a public checkpoint."""


def train(
    recipe: str | Recipe,
    run_dir: str | PathLike[str] | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    devices: Sequence[Any] | None = None,
    trust: bool = False,
) -> Run:
    """Train a recipe, or resume its run in the run directory.

    Args:
        recipe: a recipe, or the name of an experiment as ``jaxrep train`` takes it: ``clip:tiny``, ``FILE.py:NAME``.
        run_dir: directory or URL of the run; by default ``runs/clip-tiny`` for ``clip:tiny``, and for a recipe
            ``runs/recipe-FINGERPRINT``.
        changes: fields to change, by dotted path: ``{"data.batch_size": 64}``.
        devices: devices to use; all by default.
        trust: as for ``open_run``: for a run that is resumed, and for those from which its parts start.

    Returns:
        The run. ``run.status`` says how training ended; it is ``ExitCode.DONE`` at the end of the recipe.

    Raises:
        UsageError: the recipe, the devices or the run directory do not fit.
        JaxrepError: data or disk failed while training; the run can be resumed.
    """
    _print_plainly()
    if isinstance(recipe, str):
        experiment = load_experiment(recipe)
        declared = experiment.recipe.replace(changes)
        name = f"{experiment.path.stem}-{experiment.name}"
    elif isinstance(recipe, Recipe):
        experiment, declared = experiment_of(recipe), recipe.replace(changes)
        name = f"recipe-{fingerprint(declared)}"
    else:
        raise UsageError(f"train takes a Recipe or the name of an experiment, got {type(recipe).__name__}")
    place = str(run_dir) if run_dir is not None else str(Path("runs") / name)
    enable_compilation_cache()
    if trust:
        trust_code(declared, place)
    return Run(place, loop.train(declared, place, experiment, devices=devices))


def open_run(path: str | PathLike[str], *, trust: bool = False) -> Run:
    """Open the run in a directory or behind a URL.

    Args:
        path: the directory or the URL.
        trust: whether the code that came with a run of somebody else may be executed, now and later (docs/trust.md).

    Raises:
        UsageError: there is no run.
    """
    return Run(_folder(path, trust))


def load(path: str | PathLike[str], *, trust: bool = False) -> Model:
    """Load the model of a public checkpoint's folder, or of a run's latest checkpoint.

    A run's model has the weights that its evaluations use. A run may lie behind a URL (``gs://bucket/run``), and both
    on a hub (``hf://ORG/NAME@REVISION``, extra ``hub``).

    Args:
        path: the folder, the URL or the address.
        trust: as for ``open_run``.

    Raises:
        UsageError: there is neither, the run has no checkpoint, or the files do not belong together.
    """
    folder = _folder(path, trust)
    return load_checkpoint(folder) if is_checkpoint(folder) else load_run(folder)[0]


def _folder(path: Any, trust: bool = False) -> Path:
    if not isinstance(path, str | PathLike):
        raise UsageError(f"expected the path of a run or of a public checkpoint, got {type(path).__name__}")
    folder = fetch_run(path)
    if folder.is_file():
        raise UsageError(f"{folder} is a file, expected the folder of a run or of a public checkpoint")
    if trust:
        trust_run(folder)
    return folder


def evaluate(
    model: AnyModel, evals: Eval | Sequence[Eval] | str | None = None, *, trust: bool = False
) -> dict[str, float]:
    """Evaluate a model.

    Args:
        model: a model, a run, or the path of a run or a public checkpoint.
        evals: evaluations, or the name of an experiment that declares them (``clip:tiny``); None takes those of the
            recipe of a run.
        trust: as for ``open_run``.

    Returns:
        Metrics by name, ``retrieval/image_to_text/r1``.

    Raises:
        UsageError: evaluations that are missing, that do not fit the model, or that have the same name.
    """
    _print_plainly()
    if evals is None:
        if isinstance(model, Model) or (not isinstance(model, Run) and is_checkpoint(_folder(model))):
            raise UsageError("evaluate needs evals for a model that is not a run's: a public checkpoint has none")
        model = model if isinstance(model, Run) else open_run(model, trust=trust)
        evals = model.recipe.evals
    _require(evals, (str, Eval, Iterable), "evals", "evaluations or the name of an experiment")
    chosen = load_evals(evals) if isinstance(evals, str) else (evals,) if isinstance(evals, Eval) else tuple(evals)
    for number, evaluation in enumerate(chosen):
        _require(evaluation, Eval, f"evals[{number}]", "an evaluation")
    for wrong in (*problems(chosen, "evals"), *name_conflicts(chosen)):
        raise UsageError(wrong)
    return run_evals(chosen, _model(model, trust))


def embed(
    model: AnyModel,
    source: Source | str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    fields: Sequence[str] = (),
    trust: bool = False,
) -> dict[str, Any]:
    """Embed the images and texts of a data set.

    Args:
        model: a model, a run, or the path of a run or a public checkpoint.
        source: a source, or one in words as ``jaxrep embed`` takes it: a folder, ``pairs-{00..09}.tar``, ``a.parquet``.
        out: where the embeddings are written: a file that ends in .npz, .parquet or .array_record, or a folder of
            shards (``parquet:FOLDER``). An interrupted job resumes. None returns the embeddings.
        fields: fields to embed; by default all that the model reads and the data holds.
        trust: as for ``open_run``.

    Returns:
        Without ``out``: ``key`` [N], ``index`` [N] and per field float32 [N, D], rows of unit length. With ``out``: a
        summary, with the number of ``rows`` and the bad samples.

    Raises:
        UsageError: the model does not read a field, the data does not hold it, or ``out`` cannot be written.
    """
    _print_plainly()
    _require(source, (Source, str, PathLike), "source", "a source, or the path of one")
    if isinstance(fields, str):
        raise UsageError(f"fields is one string, expected a list of names: write [{fields!r}]")
    source = source if isinstance(source, Source) else fspath(source)
    return embed_source(_model(model, trust), source, None if out is None else str(out), fields=tuple(fields))


class _PlainFormatter(logging.Formatter):
    """Format jaxrep's messages as they are, and those of others as Python does by default."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a message."""
        return record.message if record.name.startswith("jaxrep.") else super().formatMessage(record)


def _print_plainly() -> None:
    """Print jaxrep's messages without ``WARNING:jaxrep.training.setup:``, where nobody chose a format.

    absl, which Orbax and grain use, installs a handler of Python's default format at its first message.
    """
    for handler in logging.getLogger().handlers:
        written = getattr(handler.formatter, "_fmt", None)
        if type(handler) is logging.StreamHandler and written == logging.BASIC_FORMAT:
            handler.setFormatter(_PlainFormatter(logging.BASIC_FORMAT))


def _require(value: Any, kinds: Any, name: str, expected: str) -> None:
    if not isinstance(value, kinds):
        raise UsageError(f"{name} is a {type(value).__name__}, expected {expected}")


def _model(model: AnyModel, trust: bool) -> Model:
    if isinstance(model, Run):
        return model.model()
    return model if isinstance(model, Model) else load(model, trust=trust)
