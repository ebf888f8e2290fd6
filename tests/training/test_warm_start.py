"""Parts that start from another run: what is taken, what is renewed, what is refused."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.data.tokenizers.base import Bytes
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.errors import UsageError
from jaxrep.methods.base import SELF
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.state import Ema
from jaxrep.optim.ema import ParameterEma
from jaxrep.pretrained.resize import resize_kernel, resize_positions, stretch_positions
from jaxrep.recipe import From
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.layout import write_json
from jaxrep.runs.restore import load_run, restore
from jaxrep.runs.run_dir import RunDir
from jaxrep.schedules import Constant
from jaxrep.spec import problems, spec
from jaxrep.step.train_state import TrainState
from jaxrep.training import setup as setups
from jaxrep.training.loop import train
from jaxrep.training.warm_start import fit_arrays, origin_place, warm_start
from jaxrep.views import RandomSquareCrop
from tests.helpers import harness
from tests.helpers.harness import LOADED, RECIPE, drawn, tiny

WITH_EMA = RECIPE.replace(ema=ParameterEma(momentum=Constant(value=0.9)))


def state_of(setup, seed=0) -> TrainState:
    """A state whose arrays are drawn, the average's too: no initializer is compiled."""
    values = jax.tree.map(jax.numpy.asarray, drawn(setup.shapes.arrays, seed))
    params = {path: values[path] for path in setup.shapes.trained(setup.updater)}
    whole = setup.recipe.ema.init(params)
    return TrainState(
        params=params,
        non_trainable={path: value for path, value in values.items() if path not in params},
        optimizer=setup.updater.init(params),
        ema=whole and {path: 10 + value for path, value in whole.items()},
        step=jax.numpy.int32(0),
        skipped=jax.numpy.int32(0),
        key=jax.random.key_data(jax.random.key(seed)),
    )


def finished(folder, recipe=WITH_EMA, results=True) -> TrainState:
    """Writes a run that is at its end."""
    setup, run = harness.set_up(recipe), RunDir(folder)
    state = state_of(setup, seed=1)
    run.claim(recipe, dataclasses.replace(LOADED, recipe=recipe))
    run.keep_tokenizer(run.tokenizer(recipe, lambda: setup.examples.column("text")))
    with contextlib.closing(Checkpoints(folder, recipe.checkpoint)) as checkpoints:
        checkpoints.save(10, state, {"position": 80})
        checkpoints.wait()
    if results:
        write_json(folder / "results.json", {"loss": 1.0})
    return state


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(directory, state) of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    return folder, finished(folder)


def test_a_run_that_starts_from_another_has_its_vocabulary(run, tmp_path):
    few = RECIPE.replace(init={"text": From(run[0])}, seed=3)
    learned = RunDir(run[0]).tokenizer(WITH_EMA, tuple)
    for source in (run[0], WITH_EMA):  # a run, and a recipe that is trained first
        found = setups.inherited_tokenizer(RECIPE.replace(init={"text": From(source)}))
        assert found is not None and found.state == learned.state
    longer = RECIPE.data.tokenizer.length + 5
    found = setups.inherited_tokenizer(few.replace({"data.tokenizer.length": longer}))
    assert found is not None and found.state == learned.state and found(["red"]).ids.shape == (1, longer)
    assert setups.inherited_tokenizer(RECIPE) is None
    other = few.replace({"data.tokenizer": Bytes(length=6)})
    assert setups.inherited_tokenizer(other) is None


@spec
class Taught(DualEncoder):
    """A dual encoder that remembers the average of its image tower."""

    teacher: Ema = Ema(of=("image", "image_head"))

    def parts(self, inputs):
        return {**super().parts(inputs), "teacher": (self.teacher, SELF)}


def started(init, folder, recipe=RECIPE):
    """(state before, state with its parts taken, what was said)."""
    recipe = recipe.replace(init=init)
    setup = harness.set_up(recipe, folder)
    before = state_of(setup)
    origins = {path: Path(origin_place(origin, setup.run)[0]) for path, origin in init.items()}
    with harness.logged() as messages:
        return before, warm_start(setup, before, origins), messages


def told(init, folder, recipe=RECIPE) -> str:
    with pytest.raises(UsageError) as error:
        started(init, folder, recipe)
    return str(error.value)


def test_a_part_is_taken_from_a_run_and_the_others_start_as_they_would(run, tmp_path):
    folder, theirs = run
    before, after, said = started({"image": From(str(folder), weights="raw")}, tmp_path)
    np.testing.assert_array_equal(after.params["image/kernel"], theirs.params["image/kernel"])
    for path in after.params.keys() - {"image/kernel"}:
        np.testing.assert_array_equal(after.params[path], before.params[path])
    assert said == [f"init.image: 1 arrays from {folder}"]
    assert int(after.step) == 0


def test_which_weights_are_taken_is_chosen_and_by_default_is_what_the_evaluations_used(run, tmp_path):
    folder, theirs = run
    for weights, source in (("raw", theirs.params), ("ema", theirs.ema), ("auto", theirs.ema)):
        _, after, _ = started({"image": From(str(folder), weights=weights)}, tmp_path)
        np.testing.assert_array_equal(after.params["image/kernel"], source["image/kernel"])


def test_a_part_can_have_another_name_there(run, tmp_path):
    folder, theirs = run
    _, after, _ = started({"text_head": From(str(folder), "image_head", weights="raw")}, tmp_path)
    np.testing.assert_array_equal(after.params["text_head/kernel"], theirs.params["image_head/kernel"])


def test_positions_of_longer_texts_are_stretched_where_that_is_asked_for():
    theirs: Any = {"text/positions": np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)}
    mine: Any = {"text/positions": np.zeros((14, 2), np.float32)}
    sizes = lambda: ({"text/positions": (6,)}, {"text/positions": (14,)})  # noqa: E731
    found = fit_arrays("text", From("run", stretch_after=2), "run", theirs, mine, sizes).values(theirs, 2)
    np.testing.assert_array_equal(found["text/positions"], stretch_positions(theirs["text/positions"], 14, 2))
    with pytest.raises(UsageError, match=r"has shape \(6, 2\), expected \(14, 2\)"):
        fit_arrays("text", From("run"), "run", theirs, mine, sizes)
    assert problems(RECIPE.replace(init={"text": From("run", stretch_after=-1)})) == [
        "init.text.stretch_after: expected a number of at least 0, got -1"
    ]


def grid(size: int, patch: int = 2, length: int = 6):
    """Return a recipe on squares of ``size`` pixels in patches of ``patch``, with learned positions."""
    kind: Any = dict(width=4, depth=1, heads=2, mlp_ratio=1.0)
    towers = {"image": ViT(**kind, stem=PatchStem(patch=patch)), "text": TextTransformer(**kind)}
    crop = (RandomSquareCrop("image", size=size),)
    return RECIPE.replace({"data.tokenizer.length": length}, method=DualEncoder(towers=towers, dim=4), views=crop)


def test_image_positions_are_resized_to_another_grid(tmp_path):
    theirs = finished(tmp_path / "small", grid(4)).params
    init = {"image": From(str(tmp_path / "small")), "text": From(str(tmp_path / "small"))}
    _, after, said = started(init, tmp_path, grid(8, length=4))
    expected = resize_positions(theirs["image/positions"], (2, 2), (4, 4), antialias=True)
    np.testing.assert_array_equal(after.params["image/positions"], expected)
    np.testing.assert_array_equal(after.params["text/positions"], theirs["text/positions"][:4])
    for name in ("image/stem/project/kernel", "image/blocks/mlp/up/kernel", "text/embedding"):
        np.testing.assert_array_equal(after.params[name], theirs[name])
    assert said[0].endswith("\n  resized image/positions from 2 x 2 to 4 x 4")
    assert said[1].endswith("\n  resized text/positions from 6 to 4")


def test_patch_kernels_are_resized_as_those_of_public_checkpoints(tmp_path):
    theirs = finished(tmp_path / "small", grid(8, patch=2)).params
    _, after, _ = started({"image": From(str(tmp_path / "small"))}, tmp_path, grid(8, patch=4))
    expected = resize_kernel(theirs["image/stem/project/kernel"], 2, 4)
    np.testing.assert_array_equal(after.params["image/stem/project/kernel"], expected)


def test_a_recipe_that_does_not_fit_is_told_before_it_is_trained(tmp_path):
    wide = grid(4).replace({"method.towers.image.width": 8})
    for source, part, sentence in (
        (wide, "image", "init.image: 'image/blocks/attention/key/bias' in the recipe that it starts from has shape "),
        (grid(4, length=3), "text", "init.text: 'text/positions' in the recipe that it starts from has shape (3, 4), "),
        (RECIPE, "image", "init.image: the recipe that it starts from has no array 'image/blocks/attention/key/bias'"),
    ):
        with pytest.raises(UsageError) as error:
            train(grid(8).replace(init={part: From(source)}), tmp_path / "run", devices=jax.devices()[:1])
        assert str(error.value).startswith(sentence)
        assert [*tmp_path.iterdir()] == []


def test_averages_are_copies_of_what_was_taken_and_share_no_memory_with_it(run, tmp_path):
    folder, theirs = run
    towers = {"image": tiny.Patches(), "text": tiny.Ids()}
    recipe = WITH_EMA.replace(method=Taught(towers=towers, dim=4))
    _, after, _ = started({"image": From(str(folder), weights="raw")}, tmp_path, recipe)
    for average in (after.non_trainable["teacher/image/kernel"], after.ema["image/kernel"]):
        np.testing.assert_array_equal(average, theirs.params["image/kernel"])
    for path in ("image_head/kernel", "image/kernel"):
        np.testing.assert_array_equal(after.non_trainable[f"teacher/{path}"], after.params[path])
    np.testing.assert_array_equal(after.ema["text/embedding"], after.params["text/embedding"])
    # The step is given the state to reuse its memory, which it cannot if two arrays share it.
    moved = jax.jit(lambda state: jax.tree.map(lambda x: x + x, state), donate_argnums=0)(after)
    np.testing.assert_array_equal(moved.non_trainable["teacher/image/kernel"], 2 * theirs.params["image/kernel"])


def test_without_init_the_state_is_as_it_was(tmp_path):
    before, after, _ = started({}, tmp_path)
    assert after is before


def test_what_does_not_fit_is_told(run, tmp_path):
    folder, _ = run
    wide = RECIPE.replace(method=DualEncoder(towers={"image": tiny.Patches(width=8), "text": tiny.Ids()}, dim=4))
    assert told({"image": From(str(folder))}, tmp_path, wide) == (
        f"init.image: 'image/kernel' in {folder} has shape (48, 6), expected (48, 8)"
    )
    assert told({"text": From(str(folder), "image")}, tmp_path) == (
        f"init.text: {folder} has no array 'image/embedding'; is it of the same architecture?"
    )
    RunDir(tmp_path / "new").claim(RECIPE, LOADED)
    assert told({"image": From(str(tmp_path / "new"))}, tmp_path) == (
        f"{tmp_path / 'new'} has no checkpoint yet: train it first"
    )
    finished(tmp_path / "plain", RECIPE)
    assert told({"image": From(str(tmp_path / "plain"), weights="ema")}, tmp_path) == (
        f"{tmp_path / 'plain'} keeps no average of its parameters: take weights 'raw'"
    )
    (sentence,) = problems(RECIPE.replace(init={"image": From(str(folder), weights="best")}))
    assert sentence.startswith("init.image.weights: expected Literal['auto', 'raw', 'ema'], got str 'best'")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"init": {"sound": From(RECIPE)}},
            "init names the part 'sound', which the model does not have; there are: "
            "image, image_head, scale, text, text_head",
        ),
        (
            {"init": {"image": From("nowhere")}},
            "init.image: nowhere is not a run directory: it holds no recipe.json",
        ),
        (
            {"log.wandb": "project"},
            "log.wandb needs the package wandb, which is not installed: pip install 'jaxrep[wandb]'",
        ),
    ],
)
def test_what_a_run_needs_is_asked_for_before_anything_is_written_or_trained(tmp_path, monkeypatch, changes, sentence):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(UsageError) as error:
        train(RECIPE.replace(changes), tmp_path / "run", devices=jax.devices()[:1])
    assert str(error.value) == sentence
    assert [*tmp_path.iterdir()] == []


def test_a_recipe_is_found_among_the_finished_runs_beside(tmp_path):
    finished(tmp_path / "unfinished", results=False)
    finished(tmp_path / "other", WITH_EMA.replace(seed=5))
    theirs = finished(tmp_path / "right", WITH_EMA.replace(microbatch_size=4))
    _, after, said = started({"image": From(WITH_EMA, weights="raw")}, tmp_path / "mine")
    assert said == [f"init.image: 1 arrays from {tmp_path / 'right'}"]
    np.testing.assert_array_equal(after.params["image/kernel"], theirs.params["image/kernel"])


def test_a_recipe_that_has_no_run_is_trained_first(tmp_path):
    first = RECIPE.replace(examples=16)
    second = RECIPE.replace(examples=16, seed=1, init={"image": From(first)}, schedule=Constant(value=0.0))
    loaded = dataclasses.replace(LOADED, recipe=second)
    with harness.logged() as messages:
        assert train(second, tmp_path / "second", loaded, devices=jax.devices()[:1]) == ExitCode.DONE
    (before,) = [path for path in tmp_path.iterdir() if path.name.startswith("recipe-")]
    assert any(f"training it first, in {before}" in line for line in messages)
    theirs, ours = restore(before), restore(tmp_path / "second")
    assert (theirs.step, ours.step) == (2, 2)
    np.testing.assert_array_equal(ours.arrays["image/kernel"], theirs.arrays["image/kernel"])
    assert np.abs(ours.arrays["text/embedding"] - theirs.arrays["text/embedding"]).max() > 0


def test_a_run_is_loaded_as_a_model_with_the_weights_that_are_asked_for(run):
    folder, theirs = run
    pictures = harness.batch()["image"]
    for weights, source in (("raw", theirs.params), ("auto", theirs.ema)):
        model, recipe = load_run(folder, weights)
        module = harness.traced(RECIPE).structure.merge(source)
        expected = module.per_example({"image": pictures}, harness.ctx())["image"]
        found = model.outputs({"image": pictures}, ("image",))["image"]
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)  # jitted and not: other order of sums
        assert recipe.examples == 80
        assert model.tokenize(["red green"])["text"].tolist() == [[1, *ids_of(recipe), 2, 0, 0]]


def ids_of(recipe):
    """The ids of red and green in the vocabulary of the training texts."""
    tokenizer = recipe.data.tokenizer.load(recipe.data.train.open().column("text"))
    return tokenizer(["red green"]).ids[0, 1:3].tolist()
