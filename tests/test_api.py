"""The front door: import jaxrep loads nothing; train, open_run, load, evaluate and embed work from Python."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxrep
from jaxrep import ExitCode, UsageError, evals
from tests.helpers.harness import RECIPE, tiny

ROOT = Path(__file__).parents[1]


def loaded_modules(program: str) -> set[str]:
    code = f"import sys\n{program}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "program",
    [
        "import jaxrep",
        "import jaxrep\njaxrep.__all__",
        "from jaxrep.cli import main\nmain(['--help'])",
        "from jaxrep import data, encoders, evals, losses, methods, metrics, objectives, optim, views",
    ],
)
def test_import_and_help_load_no_jax(program):
    assert not loaded_modules(program) & {"jax", "flax", "numpy", "optax", "grain"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps through the front door."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    recipe = RECIPE.replace(examples=16, evals=(evals.Retrieval(data=tiny.Named()),))
    return jaxrep.train(recipe, folder, devices=jax.devices()[:1])


def test_train_returns_the_run_with_its_status_metrics_and_results(run):
    assert run.status is ExitCode.DONE and "finished" in repr(run)
    assert run.metrics()[-1]["step"] == 2 and run.metrics()[-1]["loss"] > 0
    assert 0 <= run.results["retrieval/image_to_text/r1"] <= 1


def test_warnings_are_plain_where_nobody_chose_a_format():
    printed = {}
    for name, setting in (("default", ""), ("chosen", "format='%(name)s: %(message)s'")):
        program = (
            f"import logging\nlogging.basicConfig({setting})\nimport jaxrep\n"  # as absl does at its first message
            "try: jaxrep.evaluate(5)\nexcept jaxrep.UsageError: pass\n"
            "logging.getLogger('jaxrep.data').warning('ours')\nlogging.getLogger('other').warning('theirs')"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        printed[name] = done.stderr.splitlines()
    assert printed == {"default": ["ours", "WARNING:other:theirs"], "chosen": ["jaxrep.data: ours", "other: theirs"]}


def test_open_run_reads_what_train_wrote(run):
    opened = jaxrep.open_run(run.path)
    assert opened.status is None
    assert opened.recipe == run.recipe and opened.results == run.results and opened.metrics() == run.metrics()
    with pytest.raises(UsageError, match=r"nowhere is not a run: it holds no recipe\.json"):
        jaxrep.open_run("nowhere")


def test_train_resumes_and_changes_fields_by_path(run):
    again = jaxrep.train(run.recipe, run.path, changes={"log.every_steps": 7}, devices=jax.devices()[:1])
    assert again.results == run.results and again.recipe.log.every_steps == 7
    with pytest.raises(UsageError, match="holds a run of another recipe"):
        jaxrep.train(run.recipe, run.path, changes={"seed": 5}, devices=jax.devices()[:1])


def test_evaluate_takes_a_run_a_path_or_a_model(run):
    chosen = evals.Retrieval(data=tiny.Named(), name="again")
    by_model = jaxrep.evaluate(jaxrep.load(run.path), chosen)
    assert by_model == jaxrep.evaluate(run, (chosen,))
    assert jaxrep.evaluate(run) == pytest.approx(dict(run.results))
    assert by_model["again/image_to_text/r1"] == run.results["retrieval/image_to_text/r1"]


def test_evaluate_refuses_evals_that_are_missing_or_share_a_name(run):
    with pytest.raises(UsageError, match="needs evals"):
        jaxrep.evaluate(jaxrep.load(run.path))
    same = evals.Retrieval(data=tiny.Named())
    with pytest.raises(UsageError, match="retrieval"):
        jaxrep.evaluate(run, (same, same))


def test_embed_returns_unit_rows_and_writes_files(run, tmp_path):
    embeddings = jaxrep.embed(run, tiny.Named())
    assert embeddings["image"].shape[0] == len(embeddings["key"]) == len(tiny.Named().open())
    np.testing.assert_allclose(np.linalg.norm(embeddings["image"], axis=1), 1, atol=1e-5)
    summary = jaxrep.embed(run, tiny.Named(), out=tmp_path / "a.npz")
    assert summary["rows"] == len(embeddings["key"])
    with np.load(tmp_path / "a.npz") as stored:
        np.testing.assert_allclose(stored["text"], embeddings["text"], atol=1e-6)


def test_embed_refuses_a_field_that_the_model_does_not_read(run):
    with pytest.raises(UsageError, match=r"the model does not read 'sound'; .*image.*text"):
        jaxrep.embed(run, tiny.Named(), fields=("sound",))
    with pytest.raises(UsageError, match="a Recipe or the name of an experiment, got int"):
        jaxrep.train(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda run: jaxrep.evaluate(run, 3), "evals is a int, expected evaluations or the name of an experiment"),
        (lambda run: jaxrep.evaluate(run, [3]), r"evals\[0\] is a int, expected an evaluation"),
        (
            lambda run: jaxrep.evaluate(run, (evals.Retrieval(data=tiny.Named()), "clip:tiny")),
            r"evals\[1\] is a str, expected an evaluation",
        ),
        (lambda run: jaxrep.evaluate(run, evals.Retrieval), "evals is a "),
        (
            lambda run: jaxrep.evaluate(3, [evals.Retrieval(data=tiny.Named())]),
            "expected the path of a run .*, got int",
        ),
        (lambda run: jaxrep.embed(run, ["a.png", "b.png"]), "source is a list, expected a source, or the path of one"),
        (lambda run: jaxrep.embed(run, None), "source is a NoneType, expected a source"),
        (lambda run: jaxrep.embed(run, tiny.Named), "source is a ABCMeta, expected a source"),
        (lambda run: jaxrep.embed(run, tiny.Named(), fields="text"), r"expected a list of names: write \['text'\]"),
        (lambda run: jaxrep.embed(None, tiny.Named()), "expected the path of a run .*, got NoneType"),
        (lambda run: jaxrep.load(None), "expected the path of a run .*, got NoneType"),
        (lambda run: jaxrep.open_run(3), "expected the path of a run .*, got int"),
    ],
)
def test_arguments_of_another_type_are_one_sentence(run, call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call(run)


def test_train_refuses_parts_that_no_file_defines(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[tiny.Patches.__module__], "__file__", None)
    with pytest.raises(UsageError, match="a run keeps a copy of the one file that defines its parts"):
        jaxrep.train(RECIPE, tmp_path / "run")


@pytest.mark.parametrize(
    "use", [jaxrep.load, jaxrep.open_run, jaxrep.evaluate, lambda x: jaxrep.embed(x, tiny.Named())]
)
@pytest.mark.parametrize("given", [None, 5, b"run", ["a", "b"]])
def test_what_is_no_path_is_one_sentence(use, given):
    with pytest.raises(UsageError, match=f"expected the path of a run or .* got {type(given).__name__}"):
        use(given)


@pytest.mark.parametrize("use", [jaxrep.load, jaxrep.open_run, jaxrep.evaluate])
def test_file_in_place_of_a_folder_is_one_sentence(use, tmp_path):
    (tmp_path / "q.csv").write_text("image,text")
    with pytest.raises(UsageError, match=r"q\.csv is a file, expected the folder of a run or of a public checkpoint"):
        use(tmp_path / "q.csv")


def test_repr_of_a_model_is_one_readable_line(run):
    assert re.fullmatch(r"Model\(image \[.*\], text \[.*\]; [\d,]+ numbers\)", repr(jaxrep.load(run.path)))


def test_best_checkpoint_of_a_recipe_without_a_metric_is_one_sentence(run):
    with pytest.raises(UsageError, match=r"names no metric in checkpoint\.best: take the latest checkpoint"):
        run.model(checkpoint="best")


@pytest.mark.parametrize(
    ("package", "name", "nearest"),
    [
        (jaxrep, "Recip", "jaxrep has no 'Recip'; did you mean Recipe?"),
        (jaxrep, "opne_run", "did you mean open_run?"),
        (jaxrep, "something_unknown", "jaxrep has no 'something_unknown'; there are: "),
        (jaxrep.encoders, "VIT", "jaxrep.encoders has no 'VIT'; did you mean ViT?"),
        (jaxrep.losses, "infonce", "did you mean info_nce?"),
    ],
)
def test_unknown_export_gives_the_nearest(package, name, nearest):
    with pytest.raises(AttributeError, match=re.escape(nearest)):
        getattr(package, name)


def test_placeholder_of_an_experiment_is_told_before_any_network_access(tmp_path):
    with pytest.raises(UsageError, match=r"gs://YOUR-BUCKET/.* is a placeholder .* name your own data"):
        jaxrep.data.TarShards(shards="gs://YOUR-BUCKET/a/{0..3}.tar").open()


@pytest.mark.parametrize(
    ("part", "fields", "nearest"),
    [
        (jaxrep.Data, {"batchsize": 8}, "Data has no field 'batchsize'; did you mean batch_size?"),
        (jaxrep.encoders.ViT, {"widht": 8}, "ViT has no field 'widht'; did you mean width?"),
        (jaxrep.optim.AdamW, {"coop": 8}, "AdamW has no field 'coop'; there are: "),
    ],
)
def test_unknown_field_of_a_part_gives_the_nearest(part, fields, nearest):
    with pytest.raises(UsageError, match=re.escape(nearest)):
        part(**fields)
