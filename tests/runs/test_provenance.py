"""A run goes on, and is read, only with the recipe, the vocabulary and the data of its checkpoint."""

import json

import jax
import pytest
from PIL import Image

import jaxrep
from jaxrep.data.sources.csv_table import Csv
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.runs.provenance import check_data, check_files
from jaxrep.spec_json import identity
from jaxrep.training.loop import train
from tests.helpers.harness import LOADED, RECIPE, logged, tiny

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two steps, one checkpoint each."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert train(RECIPE.replace({"checkpoint.every_steps": 1}, examples=16), run, LOADED, devices=ONE) is ExitCode.DONE
    return run


def meta(run, step):
    return json.loads((run / "checkpoints" / str(step) / "meta" / "metadata").read_text())


def test_checkpoint_records_what_decides_numbers(finished):
    saved = meta(finished, 2)
    assert saved["position"] == 16 and saved["total_steps"] == 2 and saved["data"]["examples"] == 32
    assert saved["recipe"] == json.loads(json.dumps(identity(RECIPE.replace(examples=16))))
    assert len(saved["tokenizer"]) == 64


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("tokenizer.json", '"red"', '"rid"', "tokenizer.json is not the vocabulary of the checkpoint of step 2"),
        ("recipe.json", '"width": 6', '"width": 7', r"recipe.json is not the recipe of .*width: 6 -> 7"),
        ("recipe.json", '"seed": 0', '"seed": 1', "recipe.json is not the recipe of .*seed: 0 -> 1"),
    ],
)
def test_changed_file_of_a_run_is_refused(finished, file, old, new, sentence):
    before = (finished / file).read_text()
    assert old in before
    (finished / file).write_text(before.replace(old, new, 1))
    try:
        with pytest.raises(UsageError, match=sentence):
            jaxrep.load(finished)
    finally:
        (finished / file).write_text(before)


def test_fields_of_another_version_are_not_compared():
    saved = identity(RECIPE)
    del saved["seed"], saved["optimizer"]["clip_norm"]
    saved["gone"] = 3
    check_files({"recipe": saved}, RECIPE, None, "the checkpoint of step 1")
    check_files({}, RECIPE, None, "the checkpoint of step 1")
    saved["objective"]["other"] = saved["objective"]["contrastive"]
    with pytest.raises(UsageError, match=r"objective\.other"):
        check_files({"recipe": saved}, RECIPE, None, "the checkpoint of step 1")


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (
            {"data": {"examples": 260}, "tables": {}, "total_steps": 65},
            "data.examples: 200 -> 260, total_steps: 50 -> 65",
        ),
        (
            {"data": {"examples": 200, "digest": "b"}, "tables": {}, "total_steps": 50},
            r"data.digest: \(absent\) -> 'b'",
        ),
        ({"data": {"examples": 200}, "tables": {"a": "f"}, "total_steps": 50}, r"tables.a: \(absent\) -> 'f'"),
    ],
)
def test_difference_of_the_data_is_told(now, told):
    saved = {"data": {"examples": 200}, "tables": {}, "total_steps": 50}
    check_data(saved, saved, "the checkpoint of step 5", allow=False)
    check_data({"position": 3}, now, "the checkpoint of step 5", allow=False)  # an earlier version recorded nothing
    with pytest.raises(
        UsageError, match=f"the data are not those of the checkpoint of step 5: {told}; bring them back"
    ):
        check_data(saved, now, "the checkpoint of step 5", allow=False)
    with logged() as messages:
        check_data(saved, now, "the checkpoint of step 5", allow=True)
    assert len(messages) == 1 and "the run goes on with the new ones" in messages[0]


def write_table(path, rows, word="large"):
    Image.new("RGB", (8, 8)).save(path.with_name("gray.png"))
    lines = [f"{path.with_name('gray.png')},{tiny.WORDS[row % 8]} {word}" for row in range(rows)]
    path.write_text("\n".join(["filepath,title", *lines]) + "\n")


@pytest.mark.parametrize(("rows", "word"), [(60, "large"), (16, "large"), (40, "small")])
def test_run_does_not_go_on_over_other_data_unless_allowed(tmp_path, rows, word):
    table = tmp_path / "pairs.csv"
    write_table(table, 40)
    recipe = RECIPE.replace(
        {"data.train": Csv(path=str(table), separator=",", image_size=8), "checkpoint.every_steps": 10}, epochs=2
    )
    assert train(recipe, tmp_path / "run", LOADED, devices=ONE) is ExitCode.DONE
    (tmp_path / "run" / "results.json").unlink()
    write_table(table, rows, word)
    with pytest.raises(UsageError, match=r"the data are not those of the checkpoint of step 10 in .*data\.digest"):
        train(recipe, tmp_path / "run", LOADED, devices=ONE)
    with logged() as messages:
        allowed = recipe.replace({"data.allow_changed": True})
        assert train(allowed, tmp_path / "run", LOADED, devices=ONE) is ExitCode.DONE
    assert any("the data are not those of" in message for message in messages)


@pytest.mark.parametrize("content", ["[]", "5", '"x"', "{}", "null", '{"arrays": 3}', '{"arrays": {}}'])
@pytest.mark.parametrize("item", ["meta", "digests"])
def test_metadata_of_another_type_is_damage(finished, item, content):
    file = finished / "checkpoints" / "2" / item / "metadata"
    before = file.read_text()
    file.write_text(content)
    try:
        with pytest.raises(JaxrepError, match=r"the checkpoint of step 2 |states no format version"):
            jaxrep.load(finished)
    finally:
        file.write_text(before)
