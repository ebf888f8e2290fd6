"""Every experiment, at a micro size: presets are valid, tiny trains, is saved, restored, embeds and is evaluated.

A new file in experiments/ joins by being there: its presets are checked in every run of the tests, and its tiny trains
in those marked slow (`pytest -m "" tests/conformance -k NAME`) unless it stands in ALWAYS. What a recipe needs to
deviate in stands in EXCEPTIONS with the reason.
"""

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.data.loading.loader import Loader
from jaxrep.data.source import Source
from jaxrep.data.transforms.subsets import Take
from jaxrep.encoders.transformer import Transformer
from jaxrep.errors import UsageError
from jaxrep.experiment import list_experiments, load
from jaxrep.paths import stack_of
from jaxrep.recipe import From, Recipe
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.restore import load_run
from jaxrep.runs.run_dir import RunDir
from jaxrep.schedules import Constant
from jaxrep.spec_json import from_json, to_json
from jaxrep.step.train_state import abstract_state
from jaxrep.step.train_step import abstract_batch, trace_step
from jaxrep.training.loop import train
from jaxrep.training.setup import prepare, validate

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "kept"
STEPS, BATCH, REPEATS, EVALUATED, HEAD_WIDTH = 4, 8, 16, 32, 8


@dataclasses.dataclass(frozen=True)
class Exceptions:
    """What one experiment's test data declares."""

    learning_rate: float = 5e-4
    """Constant rate for the repeated batch; the recipe's own would still be warming up."""
    falls_by: float = 0.5
    """Share of its first value that the loss loses in REPEATS steps on one repeated batch."""
    narrow: bool = True
    """Whether transformers are as narrow as HEAD_WIDTH makes them."""
    untouched: tuple[str, ...] = ()
    """Patterns of trained leaves that a gradient need not reach, each with its reason beside it."""


# Trained in every run of the tests: one for each kind of method, and one that starts from another. The others take a
# third of a minute each, and CI trains them too.
ALWAYS = (
    "clip.tiny",
    "metrix.tiny",
    "mixed_barlow.tiny",
    "mrl.tiny_classifier",
    "negclip.tiny",
    "rad_dino.tiny",
    "two_d_matryoshka.tiny",
)

EXCEPTIONS = {
    # One tower alone learns, to tell apart what the other has nearly alike before its own training.
    # The space is that of the locked tower's features, whose width is told in several places.
    "lit.tiny": Exceptions(falls_by=0.08, narrow=False),
    # A few vectors learn, by plain SGD, between towers that know next to nothing at this size.
    "coop.tiny": Exceptions(learning_rate=20.0, falls_by=0.01),
    # Nested widths are told beside the tower's.
    "two_d_matryoshka.tiny": Exceptions(narrow=False),
    # A teacher that hardly moves asks for a distribution whose entropy the loss cannot fall below; prototypes stand
    # still in the first steps.
    "rad_dino.tiny": Exceptions(falls_by=0.05, untouched=("*head/prototypes", "*head/lengths")),
    # Four losses at once, of which those of the boxes fall slowly; the first block's queries tell one another zeros.
    "grain.tiny": Exceptions(
        falls_by=0.25,
        untouched=(
            "decoder/blocks/norm[12]/scale",
            *(f"decoder/blocks/attention/{x}" for x in ("query/*", "*/kernel")),
        ),
    ),
    # Half of the loss is that of a teacher, as above.
    "rs_m_clip.tiny": Exceptions(falls_by=0.25),
    # Plain SGD takes longer steps than Adam.
    "mrl.tiny_classifier": Exceptions(learning_rate=0.05),
}

# The gradient of a key's bias is zero but for rounding: it adds the same number to all logits of a query.
NEVER_REACHED = ("*/key/bias",)


def files() -> list[Path]:
    return sorted(path for path in (ROOT / "experiments").glob("*.py") if path.name != "__init__.py")


def presets() -> list[str]:
    return [f"{path.name}:{name}" for path in files() for name in preset_names(path)]


def preset_names(path: Path) -> list[str]:
    (row,) = [row for row in list_experiments(path.parent) if Path(row[0]).name == path.name]
    return list(row[2])


def loaded(target: str):
    return load(str(ROOT / "experiments" / target))


def micro(recipe: Recipe, exceptions: Exceptions) -> Recipe:
    """The same recipe at a size that takes seconds: narrow, few small batches, a constant learning rate, no decay.

    Without decay a parameter moves only where a gradient reaches it. Tests run unoptimized code, whose time is that of
    the updates of parameters: hence the narrow towers.
    """
    small = recipe.replace(
        {
            "data.batch_size": BATCH,
            "optimizer.weight_decay": Constant(value=0.0),
            "checkpoint.every_steps": 2,
            "log.every_steps": 2,
            "log.tensorboard": False,
            "log.embedding_metrics": False,
        },
        schedule=Constant(value=exceptions.learning_rate),
        examples=STEPS * BATCH,
        microbatch_size=0,
        method=rebuilt(recipe.method, Transformer, narrow) if exceptions.narrow else recipe.method,
        evals=rebuilt(recipe.evals, Source, lambda source: Take(source=source, count=EVALUATED)),
    )
    init = {
        path: dataclasses.replace(start, source=micro(start.source, Exceptions(narrow=exceptions.narrow)))
        if isinstance(start, From) and isinstance(start.source, Recipe)
        else start
        for path, start in recipe.init.items()
    }
    return small.replace(init=init)


def narrow(tower: Transformer) -> Transformer:
    return dataclasses.replace(tower, width=tower.heads * HEAD_WIDTH)


def rebuilt(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A spec, tuple or mapping in which every value of a kind is changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        return tuple(rebuilt(each, kind, change) for each in value)
    if isinstance(value, Mapping):
        return {name: rebuilt(each, kind, change) for name, each in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dataclasses.replace(value, **{name: rebuilt(each, kind, change) for name, each in fields.items()})


@pytest.mark.parametrize("target", presets())
def test_a_preset_is_valid_and_as_it_was_kept(target: str, request: pytest.FixtureRequest):
    recipe = loaded(target).recipe
    encoded = to_json(recipe)
    assert from_json(json.loads(json.dumps(encoded)), loaded(target).module) == recipe
    kept = KEPT / f"{target.replace('.py:', '.')}.json"
    if request.config.getoption("--keep-recipes"):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(encoded, indent=1, ensure_ascii=False) + "\n")
    assert kept.exists(), f"{target} is new: look at it, then run pytest --keep-recipes"
    assert json.loads(kept.read_text()) == encoded, "the recipe changed: if it should, run pytest --keep-recipes"
    validate(recipe)


def tinies() -> list[Any]:
    targets = [target for target in presets() if target.partition(":")[2].startswith("tiny")]
    names = [target.replace(".py:", ".") for target in targets]
    assert {*ALWAYS, *EXCEPTIONS} <= {*names}, "ALWAYS and EXCEPTIONS name experiments that are there"
    return [
        pytest.param(target, marks=() if name in ALWAYS else pytest.mark.slow)
        for target, name in zip(targets, names, strict=True)
    ]


@pytest.fixture(scope="module", params=tinies())
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(experiment, micro recipe, exceptions, run directory) after training."""
    name = request.param.replace(".py:", ".")
    exceptions = EXCEPTIONS.get(name, Exceptions())
    experiment = loaded(request.param)
    recipe = micro(experiment.recipe, exceptions)
    folder = tmp_path_factory.getbasetemp() / "runs" / name  # beside the runs from which others start
    assert train(recipe, folder, experiment, say=lambda _: None, devices=jax.devices()[:1]) is ExitCode.DONE
    return experiment, recipe, exceptions, folder


def test_tiny_trains_and_is_evaluated(trained):
    _, recipe, _, folder = trained
    results = json.loads((folder / "results.json").read_text())
    assert results and all(math.isfinite(value) for value in results.values())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(math.isfinite(line["loss"]) and line["gradient_norm"] > 0 and line["skipped"] == 0 for line in lines)
    assert all(f"loss/{name}" in lines[-1] for name in recipe.objective)


def test_a_run_that_is_cut_goes_on_to_the_same_end(trained, tmp_path: Path):
    experiment, recipe, _, folder = trained
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    (tmp_path / "run" / "results.json").unlink()
    assert train(recipe, tmp_path / "run", experiment, say=lambda _: None, devices=jax.devices()[:1]) is ExitCode.DONE
    assert (tmp_path / "run" / "results.json").read_text() == (folder / "results.json").read_text()


def test_its_step_takes_microbatches(trained):
    _, recipe, _, _ = trained
    halves = recipe.replace({"log.embedding_metrics": True}, microbatch_size=BATCH // 2)
    if validate(recipe).statistics:
        with pytest.raises(UsageError, match="is a statistic over the batch inside"):
            validate(halves)
        return
    shapes, mesh = validate(halves), halves.mesh.build(jax.devices()[:1])
    updater = shapes.updater(halves)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        state, batch = abstract_state(halves, shapes, updater, mesh), abstract_batch(shapes, mesh)
        metrics = trace_step(halves, shapes, updater, STEPS, state, batch).out_info[1]
    assert {"loss", *(f"loss/{name}" for name in recipe.objective)} <= set(metrics)


def test_the_restored_model_embeds(trained):
    _, recipe, _, folder = trained
    model, _ = load_run(folder)
    setup = prepare(recipe, RunDir(folder), None, lambda _: None, jax.devices()[:1])
    batch = next(first_batches(setup))
    fields = {name: value for name, value in batch.items() if name != "position"}
    rows = setup.shapes.rows
    names = [name for term in recipe.objective.values() for name in term.embeddings if name in rows] or ["image"]
    for name, embedding in model.encode(fields, names).items():
        assert np.isfinite(embedding).all(), name
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=-1), 1, atol=1e-5)


def test_the_loss_falls_on_one_repeated_batch_and_gradients_reach_every_layer(trained):
    experiment, recipe, exceptions, folder = trained
    run = RunDir(folder.with_name(f"{folder.name}-again"))
    setup = prepare(recipe, run, experiment, lambda _: None, jax.devices()[:1])
    with (
        contextlib.closing(run),
        contextlib.closing(Checkpoints(run.path, recipe.checkpoint)) as none,
        jax.set_mesh(setup.mesh),
    ):
        state, _ = setup.start(none)
        step = setup.compile()
        before = jax.tree.map(np.asarray, state.params)
        batch = {name: jax.device_put(value) for name, value in next(first_batches(setup)).items()}
        losses = []
        for number in range(REPEATS):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
            if number == 0:
                after = jax.tree.map(np.asarray, state.params)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - exceptions.falls_by * abs(losses[0]), losses
    allowed = (*NEVER_REACHED, *exceptions.untouched)
    still = [
        f"{path}[{layer}]" if stack_of(path) else path
        for path in before
        if not any(fnmatch(path, pattern) for pattern in allowed)
        for layer, (x, y) in enumerate(zip(*(layers(path, values) for values in (before, after)), strict=True))
        if np.array_equal(x, y)
    ]
    assert not still, f"no gradient reached {still}"


def first_batches(setup) -> Loader:
    return setup.loader(0)


def layers(path: str, values) -> list[np.ndarray]:
    """The layers of a stacked leaf, or the leaf alone."""
    return list(values[path]) if stack_of(path) else [values[path]]
