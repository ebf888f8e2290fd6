"""Start a run: restore its last checkpoint, or initialize it, with parts from other runs and checkpoints."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from jaxrep.data.bad_samples import EMPTY_REPORT
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.experiment import folder_meant, trust_run
from jaxrep.methods.base import SELF
from jaxrep.params import Arrays, split
from jaxrep.pretrained.partial_load import Size, Sized, find_resized, grid_sizes, partial_load, resize, resized_lines
from jaxrep.recipe import From, Pretrained, Recipe
from jaxrep.runs import provenance
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.remote import fetch_run
from jaxrep.runs.restore import restore
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec import walk
from jaxrep.spec_json import fingerprint
from jaxrep.step.programs import Programs
from jaxrep.step.shapes import Shapes, trace_shapes
from jaxrep.step.train_state import TrainState
from jaxrep.training.compilation import initialize

if TYPE_CHECKING:
    from jaxrep.training.setup import Setup

LOG = logging.getLogger(__name__)


def restore_or_initialize(
    setup: "Setup",
    checkpoints: Checkpoints,
    like: TrainState,
    origins: Mapping[str, Path],
    programs: Programs | None = None,
) -> tuple[TrainState, Mapping[str, Any]]:
    """Return the state to train from, and the state of the data (position and bad samples).

    Raises UsageError: the run has other data, another recipe or another vocabulary than its checkpoint.

    Args:
        setup: the run.
        checkpoints: its checkpoints; the newest whole one is restored.
        like: shapes of the state, with shardings.
        origins: directories of the runs from which parts of a new run start, by path of the part.
        programs: where the program that makes the state of a new run is kept.
    """
    restored = checkpoints.restore_latest(like)
    if restored is not None:
        step, state, data = restored
        checkpoint = f"the checkpoint of step {step} in {setup.run}"
        provenance.check_files(data, setup.recipe, setup.tokenizer, checkpoint)
        provenance.check_data(data, setup.record, checkpoint, setup.recipe.data.allow_changed)
        LOG.info("resuming from step %d of %d", step, setup.total_steps)
        return state, data
    state = initialize(setup.recipe, setup.shapes, setup.updater, like, programs)
    state = warm_start(setup, state, origins)
    placed = {path: jax.device_put(values, state.non_trainable[path].sharding) for path, values in setup.tables.items()}
    state = dataclasses.replace(state, non_trainable={**state.non_trainable, **placed})
    return state, {"position": 0, "bad_samples": EMPTY_REPORT.to_json()}


def trust_code(recipe: Recipe, run_dir: str | Path) -> None:
    """Record that this user trusts the code of a run that is resumed, and of the runs from which its parts start.

    Raises UsageError: it cannot be recorded. Runs that are not there are left to the training.
    """
    origins = (part.source for _, part in walk(recipe) if isinstance(part, From))
    for place in (run_dir, *(place for place in origins if not isinstance(place, Recipe))):
        try:
            folder = fetch_run(place)
        except JaxrepError:
            continue
        trust_run(folder)


def warm_start(setup: "Setup", state: TrainState, origins: Mapping[str, Path]) -> TrainState:
    """Return the state with the parts of ``init`` taken from their origins; averages become copies of those parts."""
    if not setup.recipe.init:
        return state
    arrays = dict(state.arrays)
    for path, origin in setup.init.items():
        if isinstance(origin, Pretrained):
            loading = partial_load(path, origin, setup.recipe.method, setup.shapes)
            taken, account = loading.arrays(), loading.summary()
        else:
            folder = origins[path]
            source = restore(folder, weights=origin.weights)
            sizes = functools.partial(_both_sizes, source.recipe, setup.recipe, setup.shapes)
            fit = fit_arrays(path, origin, folder, source.arrays, arrays, sizes)
            taken = fit.values(source.arrays, origin.stretch_after)
            account = "\n  ".join([f"{len(taken)} arrays from {folder}", *resized_lines(fit.resized)])
        LOG.info("init.%s: %s", path, account)
        arrays |= {name: jax.device_put(value, arrays[name].sharding) for name, value in taken.items()}
    arrays = rebuild_averages(setup, arrays)
    params = {name: arrays[name] for name in state.params}
    non_trainable = {name: arrays[name] for name in state.non_trainable}
    return dataclasses.replace(state, params=params, non_trainable=non_trainable, ema=setup.recipe.ema.init(params))


def check_init(recipe: Recipe, shapes: Shapes) -> None:
    """Check that ``init`` names parts of the model, and that their runs and checkpoints exist and fit.

    A recipe that is trained first is checked by shape.

    Raises:
        UsageError: the first that does not.
    """
    traced: dict[str, Shapes] = {}
    parts = sorted({name.split("/")[0] for name in shapes.arrays})
    for path, origin in recipe.init.items():
        if not any(f"{name}/".startswith(f"{path}/") for name in shapes.arrays):
            raise UsageError(f"init names the part '{path}', which the model does not have; {hint(path, parts)}")
        if isinstance(origin, Pretrained):
            partial_load(path, origin, recipe.method, shapes)
        elif isinstance(source := origin.source, Recipe):
            key = fingerprint(source)
            before = traced[key] = traced.get(key) or trace_shapes(source)
            sizes = functools.partial(_both_sizes, source, recipe, shapes)
            fit_arrays(path, origin, "the recipe that it starts from", before.arrays, shapes.arrays, sizes)
        elif not (run := RunDir(fetch_run(origin.source))).exists():
            near = folder_meant(run.path)
            raise UsageError(f"init.{path}: {origin.source} is not a run directory: it holds no recipe.json{near}")


@dataclasses.dataclass(frozen=True)
class Fit:
    """Hold which arrays of a source a part starts from."""

    names: Mapping[str, str]  # path in the source, by path in the model
    resized: Mapping[str, tuple[Size, Size]]  # sizes in the source and in the model, by path in the model

    def values(self, source: Arrays, stretch_after: int) -> Arrays:
        """Return the values by path in the model."""
        taken: dict[str, Any] = {name: source[there] for name, there in self.names.items()}
        for name, sizes in self.resized.items():
            taken[name] = resize(name, np.asarray(taken[name]), *sizes, stretch_after=stretch_after)
        return taken


def fit_arrays(
    path: str,
    origin: From,
    where: object,
    source: Mapping[str, Any],
    model: Mapping[str, Any],
    sizes: Callable[[], tuple[Mapping[str, Size], Mapping[str, Size]]],
) -> Fit:
    """Match the arrays of a model below ``path`` with those of a source.

    Args:
        path: the part of the model that starts from the source.
        origin: names the part of the source, and says whether positions are stretched to longer texts.
        where: the source, for messages.
        source: arrays of the source, or their shapes, by path.
        model: arrays of the model, or their shapes, by path.
        sizes: returns the sizes of positions and patch kernels of both; called if a shape differs.

    Raises:
        UsageError: the source lacks an array, or its shape differs and it cannot be resized.
    """
    part = origin.part or path
    names = {name: part + name.removeprefix(path) for name in model if f"{name}/".startswith(f"{path}/")}
    for there in names.values():
        if there not in source:
            raise UsageError(f"init.{path}: {where} has no array '{there}'; is it of the same architecture?")
    old, new = ({name: leaf.shape for name, leaf in arrays.items()} for arrays in (source, model))
    if all(old[there] == new[name] for name, there in names.items()):
        return Fit(names, {})
    old, new = map(Sized, (old, new), sizes())
    resized, misfits = find_resized(names, old, new, stretch_after=origin.stretch_after)
    for name, there in misfits:
        grid = ": it is of another grid of patches, take its image size" if name.endswith("/relative") else ""
        raise UsageError(
            f"init.{path}: '{there}' in {where} has shape {old.shapes[there]}, expected {new.shapes[name]}{grid}"
        )
    return Fit(names, resized)


def _both_sizes(source: Recipe, recipe: Recipe, shapes: Shapes) -> tuple[Mapping[str, Size], Mapping[str, Size]]:
    """Return the sizes of positions and patch kernels of the model of a source and of a recipe's, by path."""
    return grid_sizes(source.method, trace_shapes(source).inputs), grid_sizes(recipe.method, shapes.inputs)


def rebuild_averages(setup: "Setup", arrays: Arrays) -> Arrays:
    """Return the arrays with state parts, such as a teacher's average, built again from the parts that they copy."""
    module = setup.shapes.structure.merge(arrays)
    for name, (part, reads) in setup.recipe.method.parts(setup.shapes.inputs).items():
        if reads is SELF and part is not None:
            setattr(module, name, part.build(nnx.Rngs(setup.recipe.seed), inputs=module))
    return {**arrays, **split(module)[1]}


def find_finished_run(recipe: Recipe, folder: Path) -> Path | None:
    """Return the directory in ``folder`` that holds a finished run of a recipe, or None."""
    wanted = fingerprint(recipe)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        run = RunDir(path)
        with contextlib.suppress(UsageError):  # a run that cannot be read, or whose code is not trusted, is another one
            if run.exists() and run.results() is not None and fingerprint(run.recipe()) == wanted:
                return path
    return None


def origin_place(origin: From, run: RunDir) -> tuple[str | Path, bool]:
    """Return where the run lies from which a part starts, and whether it has to be trained first.

    A recipe without a finished run beside this run is trained beside it.
    """
    if not isinstance(origin.source, Recipe):
        return fetch_run(origin.source), False
    name = f"recipe-{fingerprint(origin.source)}"
    if run.spool:  # runs beside it in a store would have to be fetched to be compared
        return f"{run.spool.url.rpartition('/')[0]}/{name}", True
    beside = run.path.absolute().parent
    finished = find_finished_run(origin.source, beside)
    return (finished, False) if finished is not None else (beside / name, True)
