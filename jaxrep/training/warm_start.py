"""Where parts start that do not start from fresh values: another run, a recipe that is trained first, or a public
checkpoint."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.methods.base import SELF
from jaxrep.params import Arrays, split
from jaxrep.pretrained.fit import fit
from jaxrep.pretrained.stretch import stretch_positions
from jaxrep.recipe import From, Pretrained, Recipe
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.remote import fetch_run
from jaxrep.runs.restore import restore
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec_json import fingerprint
from jaxrep.step.shapes import Shapes
from jaxrep.step.train_state import TrainState

if TYPE_CHECKING:
    from jaxrep.training.setup import Setup


def warm_start(setup: "Setup", state: TrainState) -> TrainState:
    """The state with the parts that ``init`` names taken from elsewhere; averages are copies of what was taken."""
    arrays = dict(state.arrays)
    for path, origin in setup.recipe.init.items():
        if isinstance(origin, Pretrained):
            fitting = fit(path, origin, setup.recipe.method, setup.shapes)
            taken, account = fitting.arrays(), fitting.account()
        else:
            folder = find_run(origin, setup)
            theirs = restore(folder, weights=origin.weights).arrays
            taken = take_arrays(arrays, path, theirs, origin.part or path, folder, origin.stretch_after)
            account = f"{len(taken)} arrays from {folder}"
        setup.say(f"init.{path}: {account}")
        arrays |= {name: jax.device_put(value, arrays[name].sharding) for name, value in taken.items()}
    if not setup.recipe.init:
        return state
    arrays = rebuild_averages(setup, arrays)
    params = {name: arrays[name] for name in state.params}
    non_trainable = {name: arrays[name] for name in state.non_trainable}
    return replace(state, params=params, non_trainable=non_trainable, ema=setup.recipe.ema.init(params))


def check_init(recipe: Recipe, shapes: Shapes) -> None:
    """That the parts of ``init`` are the model's, that the runs are there, and that checkpoints fit. Raises
    UsageError."""
    parts = sorted({name.split("/")[0] for name in shapes.arrays})
    for path, origin in recipe.init.items():
        if not any(f"{name}/".startswith(f"{path}/") for name in shapes.arrays):
            raise UsageError(f"init names the part '{path}', which the model has not; {hint(path, parts)}")
        if isinstance(origin, Pretrained):
            fit(path, origin, recipe.method, shapes)
        elif not isinstance(origin.source, Recipe) and not RunDir(fetch_run(origin.source)).exists():
            raise UsageError(f"init.{path}: {origin.source} is not a run directory: it holds no recipe.json")


def take_arrays(
    mine: Mapping[str, jax.Array], path: str, theirs: Arrays, part: str, where: Path, stretch_after: int = 0
) -> Arrays:
    """The arrays below ``part`` there, by the names that they have below ``path`` here; every one must fit."""
    wanted = {name: part + name.removeprefix(path) for name in mine if f"{name}/".startswith(f"{path}/")}
    found = {}
    for name, source in wanted.items():
        if source not in theirs:
            raise UsageError(f"init.{path}: {where} has no array '{source}'; is it of the same architecture?")
        value, shape = theirs[source], mine[name].shape
        if stretch_after and name.endswith("/positions") and len(value) < shape[0]:
            value = stretch_positions(np.asarray(value), shape[0], stretch_after)
        if value.shape != shape:
            raise UsageError(f"init.{path}: '{source}' in {where} has shape {value.shape}, and {shape} is expected")
        found[name] = value
    return found


def rebuild_averages(setup: "Setup", arrays: Arrays) -> Arrays:
    """The arrays with state parts (averages) made anew from the parts that they remember."""
    module = setup.shapes.structure.merge(arrays)
    for name, (part, reads) in setup.recipe.method.parts(setup.shapes.inputs).items():
        if reads is SELF:
            setattr(module, name, part.build(nnx.Rngs(setup.recipe.seed), inputs=module))
    return {**arrays, **split(module)[1]}


def find_finished_run(recipe: Recipe, among: Path) -> Path | None:
    """The directory, of those in a folder, that holds a finished run of a recipe."""
    wanted = fingerprint(recipe)
    for folder in sorted(among.iterdir()):
        run = RunDir(folder)
        if run.exists() and run.results() is not None and fingerprint(run.recipe()) == wanted:
            return folder
    return None


def find_run(origin: From, setup: "Setup") -> Path:
    """The directory of the run that a part starts from; a recipe without a finished run is trained first, beside this
    run."""
    if not isinstance(origin.source, Recipe):
        return fetch_run(origin.source)
    name, spool = f"recipe-{fingerprint(origin.source)}", setup.run.spool
    if spool:  # neighbors in a store would have to be fetched to be known
        folder = f"{spool.url.rpartition('/')[0]}/{name}"
    else:
        beside = setup.run.path.absolute().parent
        if (found := find_finished_run(origin.source, beside)) is not None:
            return found
        folder = beside / name
    setup.say(f"a part starts from a recipe that has no run here: it is trained first, in {folder}")
    from jaxrep.training.loop import train  # the loop starts runs, and a run may start the loop of another before it

    devices = setup.mesh.devices.ravel().tolist()
    ended = train(origin.source, folder, setup.loaded, say=setup.say, devices=devices)
    if ended is not ExitCode.DONE:
        raise JaxrepError(
            f"the run in {folder}, from which a part was to start, did not reach its end ({ended.name.lower()})"
        )
    return fetch_run(folder)
