"""Every experiment, at a micro size: presets are valid, tiny trains, is saved, restored, embeds and is evaluated.

A new file in experiments/ joins by being there. Its presets are compared with kept/ in every run of the tests; its
tiny trains in those marked slow (`pytest -m "" tests/conformance -k NAME`) unless it stands in ALWAYS. What a recipe
needs to deviate in stands in EXCEPTIONS with the reason.
"""

import ast
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data import Fraction, Source, Take
from jaxrep.encoders import Transformer
from jaxrep.errors import UsageError
from jaxrep.evals import LabeledEval, LinearProbe, run_evals
from jaxrep.experiment import LoadedExperiment, load, load_evals
from jaxrep.experiment_files import ExperimentFile, list_experiments
from jaxrep.paths import stack_of
from jaxrep.recipe import From, Recipe
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.restore import load_run
from jaxrep.schedules import Constant
from jaxrep.spec import problems
from jaxrep.spec_json import from_json, to_json
from jaxrep.step.shapes import validate
from jaxrep.step.train_state import abstract_state
from jaxrep.step.train_step import abstract_batch, trace_step
from jaxrep.training.loop import train
from jaxrep.training.setup import make_loader
from jaxrep.user_modules import load_module
from tests.helpers.kept_recipes import formatted, kept_forms

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


# Trained in every run of the tests: one for each kind of method, and one that starts from another run. CI trains all.
ALWAYS = (
    "clip:tiny",
    "clipa:tiny",
    "metrix:tiny",
    "mrl:tiny_classifier",
    "random_teacher:tiny",
    "two_d_matryoshka:tiny",
    "vicreg:tiny",
)

EXCEPTIONS = {
    # Only one tower learns: to tell apart what the other has nearly alike before its own training.
    # The joint space is that of the locked tower's features, whose width stands in several fields.
    "lit:tiny": Exceptions(falls_by=0.08, narrow=False),
    # A few vectors learn, by plain SGD, between towers that know next to nothing at this size.
    "coop:tiny": Exceptions(learning_rate=20.0, falls_by=0.01),
    # Nested widths are fields beside the tower's.
    "two_d_matryoshka:tiny": Exceptions(narrow=False),
    # A teacher that hardly moves asks for a distribution whose entropy the loss cannot fall below; prototypes are
    # fixed in the first steps.
    "rad_dino:tiny": Exceptions(falls_by=0.05, untouched=("*head/prototypes", "*head/lengths")),
    "swav:tiny": Exceptions(falls_by=0.01, untouched=("head/prototypes",)),
    # Until the center is that of the logits, targets are alike and easy: the loss rises, at most to the log of 256.
    "dino:tiny": Exceptions(falls_by=-0.8, untouched=("head/prototypes",)),
    # Targets at temperature 1 are nearly uniform over the prototypes, and their entropy is nearly all of the loss.
    "random_teacher:tiny": Exceptions(falls_by=0.0),
    # Four losses at once, of which those of the boxes fall slowly; the first block's queries give one another zeros.
    "grain:tiny": Exceptions(
        falls_by=0.25,
        untouched=(
            "decoder/blocks/norm[12]/scale",
            *(f"decoder/blocks/attention/{x}" for x in ("query/*", "*/kernel")),
        ),
    ),
    # A batch that is repeated meets its own keys in the queue, as negatives: the loss rises.
    **dict.fromkeys(("moco:tiny", "mochi:tiny"), Exceptions(falls_by=-2.0)),
    # The logits of ten classes start near 0 and have to grow.
    "projection_head:tiny_labels": Exceptions(learning_rate=2e-3),
    # Pixels of 32 patches a picture: predictions first become those of the mean patch.
    "cae:tiny": Exceptions(learning_rate=2e-3),
    # The logits of 64 places start near 0 and have to grow; patches of the background are alike.
    "mp3:tiny": Exceptions(learning_rate=2e-3, falls_by=0.1),
    # As in cae, before and after the mean and the variance of a patch are taken out.
    **dict.fromkeys(("mae:tiny", "simmim:tiny", "satmae_pp:tiny"), Exceptions(learning_rate=2e-3)),
    **dict.fromkeys(("mae:tiny_fine_tune", "simmim:tiny_fine_tune"), Exceptions(learning_rate=2e-3, falls_by=0.2)),
    # All numbers start at one half, and the penalty of activations stays.
    "stacked_autoencoders:tiny": Exceptions(learning_rate=0.02),
    # The rates of encoder and projector are those of a rule, which still warms up.
    "simsiam:tiny": Exceptions(falls_by=0.15),
    # The bias is that of 256 pairs, and a batch here has 8.
    **dict.fromkeys(("siglip:tiny", "siglip:tiny_attention"), Exceptions(falls_by=0.4)),
    # Half of the loss is that of a teacher, as above.
    "rs_m_clip:tiny": Exceptions(falls_by=0.25),
    # Plain SGD takes longer steps than Adam.
    "mrl:tiny_classifier": Exceptions(learning_rate=0.05),
}

# The gradient of a key's bias is zero but for rounding: it adds the same number to all logits of a query.
NEVER_REACHED = ("*/key/bias",)

FILES = list_experiments(ROOT / "experiments")
RECIPES = [file for file in FILES if file.folder != "evaluation"]
PROTOCOLS = [file for file in FILES if file.folder == "evaluation"]
by_name = {"ids": lambda file: f"{file.name}:"}


def presets(files: list[ExperimentFile]) -> list[str]:
    return [f"{file.name}:{preset}" for file in files for preset in file.presets]


def slow_unless_always(targets: list[str]) -> list[Any]:
    return [pytest.param(target, marks=() if target in ALWAYS else pytest.mark.slow) for target in targets]


TINIES = [target for target in presets(RECIPES) if target.partition(":")[2].startswith("tiny")]


# Files


@pytest.mark.parametrize("file", FILES, **by_name)
def test_file_states_paper_command_and_time_and_imports_rooms(file: ExperimentFile):
    text = (ROOT / file.path).read_text()
    lines, tree = text.splitlines(), ast.parse(text)
    doc = " ".join((ast.get_docstring(tree) or "").split())
    if file in RECIPES:
        assert re.fullmatch(r".+ \(.+ \d{4}, arXiv:\d{4}\.\d{4,5}\)\.", file.paper), "TITLE (Authors year, arXiv:ID)."
        assert f"``jaxrep train {file.name}:tiny`` takes " in doc and " on two cores" in doc
    else:
        assert f"``jaxrep eval RUN --evals {file.name}``" in doc
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) <= 4
    assert len(lines) <= 130, "about 120 lines"
    deep = [
        node.module for node in imports if isinstance(node, ast.ImportFrom) and str(node.module).startswith("jaxrep.")
    ]
    assert deep == [], "parts come from rooms: `from jaxrep import encoders`"


@pytest.mark.parametrize("file", FILES, **by_name)
def test_measured_figures_of_a_docstring_are_those_of_the_table(file: ExperimentFile):
    doc = " ".join((ast.get_docstring(ast.parse((ROOT / file.path).read_text())) or "").split())
    table = (ROOT / "docs" / "recipes.md").read_text()
    assert [figure for figure in re.findall(r"\d\.\d+ ± \d\.\d+", doc) if figure not in table] == []


def test_all_names_are_known_and_kept_presets_exist():
    assert {*ALWAYS, *EXCEPTIONS} <= {*TINIES}
    assert len({file.name for file in FILES}) == len(FILES)
    assert {path.stem for path in KEPT.glob("*.json")} == {file.name for file in FILES}


# Presets


@pytest.mark.parametrize("file", FILES, **by_name)
def test_presets_are_as_kept(file: ExperimentFile, request: pytest.FixtureRequest):
    values = {preset: declared(file, preset) for preset in file.presets}
    module = load_module(file.name)
    for preset, value in values.items():
        assert from_json(json.loads(json.dumps(to_json(value))), module) == value
        assert problems(value, preset) == []
    now, kept = kept_forms(values), KEPT / f"{file.name}.json"
    if request.config.getoption("--keep-recipes"):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(formatted(now) + "\n")
    assert kept.exists(), f"{file.name} is new: look at it, then run pytest --keep-recipes"
    assert json.loads(kept.read_text()) == now, "a preset changed: if it should, run pytest --keep-recipes"


def declared(file: ExperimentFile, preset: str) -> Any:
    target = f"{file.name}:{preset}"
    return load(target).recipe if file in RECIPES else load_evals(target)


@pytest.mark.parametrize("target", slow_unless_always(presets(RECIPES)))
def test_preset_is_valid(target: str):
    validate(load(target).recipe)


# Training


class Trained(NamedTuple):
    """A micro recipe after training."""

    experiment: LoadedExperiment
    recipe: Recipe
    exceptions: Exceptions
    folder: Path
    start: Any
    """``Start`` of conftest.py: set-up, initial state and compiled step."""


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
        evals=few_examples(recipe.evals),
    )
    init = {
        path: dataclasses.replace(origin, source=micro(origin.source, Exceptions(narrow=exceptions.narrow)))
        if isinstance(origin, From) and isinstance(origin.source, Recipe)
        else origin
        for path, origin in recipe.init.items()
    }
    return small.replace(init=init)


def narrow(tower: Transformer) -> Transformer:
    return dataclasses.replace(tower, width=tower.heads * HEAD_WIDTH)


def few_examples(evals: Any) -> Any:
    """The same evaluations on few examples, labeled ones of several classes; probes are fitted in few iterations."""
    spread = lambda each: rebuilt({**vars(each)}, Source, lambda source: Fraction(source=source, share=0.1))  # noqa: E731
    evals = rebuilt(evals, LabeledEval, lambda each: dataclasses.replace(each, **spread(each)))
    evals = rebuilt(evals, Source, lambda source: Take(source=source, count=EVALUATED))
    return rebuilt(evals, LinearProbe, lambda probe: dataclasses.replace(probe, max_iterations=2))


def rebuilt(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A spec, tuple or mapping in which every value of a kind is changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple):
        return tuple(rebuilt(child, kind, change) for child in value)
    if isinstance(value, Mapping):
        return {name: rebuilt(child, kind, change) for name, child in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dataclasses.replace(value, **{name: rebuilt(child, kind, change) for name, child in fields.items()})


@pytest.fixture(scope="module")
def trained_micro(tmp_path_factory: pytest.TempPathFactory, starts) -> Callable[[str], Trained]:
    """Trains the micro recipe of a target once."""
    known: dict[str, Trained] = {}

    def get(target: str) -> Trained:
        if target not in known:
            exceptions = EXCEPTIONS.get(target, Exceptions())
            experiment = load(target)
            recipe = micro(experiment.recipe, exceptions)
            # Beside the runs from which others start.
            folder = tmp_path_factory.getbasetemp() / "runs" / target.replace(":", ".")
            assert train(recipe, folder, experiment, devices=jax.devices()[:1]) is ExitCode.DONE
            known[target] = Trained(experiment, recipe, exceptions, folder, starts[folder])
        return known[target]

    return get


@pytest.fixture(scope="module", params=slow_unless_always(TINIES))
def trained(request: pytest.FixtureRequest, trained_micro) -> Trained:
    return trained_micro(request.param)


def test_tiny_trains_and_is_evaluated(trained: Trained):
    results = json.loads((trained.folder / "results.json").read_text())
    assert results and all(math.isfinite(value) for value in results.values())
    lines = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(math.isfinite(line["loss"]) and line["gradient_norm"] > 0 and line["skipped"] == 0 for line in lines)
    assert all(f"loss/{name}" in lines[-1] for name in trained.recipe.objective)


def test_interrupted_run_resumes_to_the_same_end(trained: Trained, tmp_path: Path):
    shutil.copytree(trained.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    (tmp_path / "run" / "results.json").unlink()
    assert train(trained.recipe, tmp_path / "run", trained.experiment, devices=jax.devices()[:1]) is ExitCode.DONE
    assert (tmp_path / "run" / "results.json").read_text() == (trained.folder / "results.json").read_text()


def test_step_takes_microbatches(trained: Trained):
    halves = trained.recipe.replace({"log.embedding_metrics": True}, microbatch_size=BATCH // 2)
    setup = trained.start.setup
    if setup.shapes.batch_stats:
        with pytest.raises(UsageError, match="is a statistic over the batch inside"):
            validate(halves)
        return
    with jax.sharding.use_abstract_mesh(setup.mesh.abstract_mesh):
        state = abstract_state(halves, setup.shapes, setup.updater, setup.mesh)
        batch = abstract_batch(setup.shapes, setup.mesh)
        metrics = trace_step(halves, setup.shapes, setup.updater, STEPS, state, batch).out_info[1]
    assert {"loss", *(f"loss/{name}" for name in trained.recipe.objective)} <= set(metrics)


def test_restored_model_embeds(trained: Trained):
    model, _ = load_run(trained.folder)
    setup = trained.start.setup
    batch = next(make_loader(setup, 0))
    fields = {
        name: of_size(value, setup.shapes.inputs.get(name)) for name, value in batch.items() if name != "position"
    }
    rows = setup.shapes.rows
    terms = trained.recipe.objective.values()
    # Not the outputs of fields that views make: they exist in training alone.
    read = [name for term in terms for name in term.embeddings if name in rows and name.split("/")[0] in fields]
    names = read or [name for name in ("image", "text") if name in rows][:1]
    for name, embedding in model.encode(fields, names).items():
        assert np.isfinite(embedding).all(), name
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=-1), 1, atol=1e-5)


def of_size(x: np.ndarray, field: Field | None) -> np.ndarray:
    """A corner of images that views make smaller, as large as the model reads them; other fields as they are."""
    return x[(slice(None), *map(slice, field.shape))] if field is not None and len(field.shape) == x.ndim - 1 else x


def test_loss_falls_on_a_repeated_batch_and_gradients_reach_every_layer(trained: Trained):
    start = trained.start
    losses = []
    with jax.set_mesh(start.setup.mesh):
        state = jax.tree.map(jax.device_put, start.state)
        batch = {name: jax.device_put(value) for name, value in next(make_loader(start.setup, 0)).items()}
        before = start.state.params
        for number in range(REPEATS):
            state, metrics = start.step(state, batch)
            losses.append(float(metrics["loss"]))
            if number == 0:
                after = jax.tree.map(np.asarray, state.params)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - trained.exceptions.falls_by * abs(losses[0]), losses
    allowed = (*NEVER_REACHED, *trained.exceptions.untouched)
    unmoved = [
        f"{path}[{layer}]" if stack_of(path) else path
        for path in before
        if not any(fnmatch(path, pattern) for pattern in allowed)
        for layer, (x, y) in enumerate(zip(*(layers(path, values) for values in (before, after)), strict=True))
        if np.array_equal(x, y)
    ]
    assert not unmoved, f"no gradient reached {unmoved}"


def layers(path: str, values) -> list[np.ndarray]:
    """The layers of a stacked leaf, or the leaf alone."""
    return list(values[path]) if stack_of(path) else [values[path]]


# Protocols of evaluation


@pytest.mark.parametrize("name", [file.name for file in PROTOCOLS], ids=lambda name: f"clip:{name}")
def test_protocol_evaluates_a_model(name: str, trained_micro):
    model, _ = load_run(trained_micro("clip:tiny").folder)
    results = run_evals(few_examples(load_evals(f"{name}:tiny")), model)
    assert results and all(math.isfinite(value) for value in results.values())
