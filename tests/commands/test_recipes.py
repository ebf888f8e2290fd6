"""Commands find experiments, change their fields by flags, and list, show and compare them."""

import json
import re
from pathlib import Path

import pytest

import jaxrep
from jaxrep.data import HostResize, TarShards
from jaxrep.experiment import load, recipe_json
from jaxrep.spec import difference, replace, walk
from jaxrep.spec_json import to_json

# Train


def test_train_runs_a_preset_in_its_default_directory(jaxrep_says, toy, trained):
    assert jaxrep_says(f"train {toy}:tiny")[0] == 0
    ((recipe, run_dir, loaded),) = trained
    assert recipe == load(f"{toy}:tiny").recipe
    assert run_dir == Path("runs/toy-tiny")
    assert (loaded.name, loaded.path) == ("tiny", Path(toy))


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        ("--seed 3", {"seed": 3}),
        ("--method.towers.image.width 384", {"method.towers.image.width": 384}),
        ("--views.0.size 16 --views.0.scale 0.1 0.2", {"views.0.size": 16, "views.0.scale": (0.1, 0.2)}),
        ("--objective.contrastive.a x", {"objective.contrastive.a": "x"}),
        ("--data.batch-size 8 --mesh.data -1", {"data.batch_size": 8}),
        ("--schedule.peak 2 --schedule.warmup-steps 5", {"schedule.peak": 2.0, "schedule.warmup_steps": 5}),
        (
            "--method.towers.image.pool mean --log.no-embedding-metrics",
            {"method.towers.image.pool": "mean", "log.embedding_metrics": False},
        ),
        ("--data.texts a b", {"data.texts": ("a", "b")}),
        ("--data.train tar:{0..9}.tar,image_size=32", {"data.train": TarShards(shards="{0..9}.tar", image_size=32)}),
        (
            "--seed 3 --data.train=a.tar --data.train.text cap",
            {"data.train": TarShards(shards="a.tar", text="cap"), "seed": 3},
        ),
    ],
)
def test_flags_change_only_the_fields_they_name(jaxrep_says, toy, trained, flags, changes):
    status, _, err = jaxrep_says(f"train {toy} {flags} --run-dir there")
    assert (status, err) == (0, "")
    ((recipe, run_dir, loaded),) = trained
    assert difference(recipe, replace(load(toy).recipe, changes)) == []
    assert loaded.recipe == recipe
    assert run_dir == Path("there")


def test_source_flag_keeps_image_size_and_crop(jaxrep_says, toy, trained):
    with open(toy, "a") as file:
        file.write(
            "own = recipe.replace({'data.train': data.ImageFolder(path='p', image_size=64, crop=data.HostResize())})\n"
        )
    assert jaxrep_says(f"train {toy}:own --data.train a.tar")[0] == 0
    assert trained[0][0].data.train == TarShards(shards="a.tar", image_size=64, crop=HostResize())


def test_help_lists_fields_with_docstrings(jaxrep_says, toy, trained):
    status, out, _ = jaxrep_says(f"train {toy} --help")
    assert status == 0 and not trained
    text = " ".join(out.replace("│", " ").split())
    for part in (
        "Toy CLIP: which caption goes with which picture.",
        "--run-dir DIR: directory or URL (gs://BUCKET/RUN) of the run, which is resumed (default: runs/toy-recipe)",
        "--data.train SOURCE: another source, as tar:pairs-{00..99}.tar,text=caption",
        "--seed INT Seed of initial values, random keys and order. (default: 0)",
        "--method.towers.image.width INT Width D of tokens and features. (default: 192)",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train", "required: EXPERIMENT"),
        ("train --seed 3", "required: EXPERIMENT"),
        ("train nowhere.py", "jaxrep: error: nowhere.py does not exist"),
        ("train tyo", "jaxrep: error: there is no experiment named 'tyo'; did you mean toy"),
        ("train emoji", "emoji.py holds evaluations and no recipe"),
        ("train experiments/toy.py:tyni", "has no recipe named 'tyni'; did you mean tiny?"),
        (
            "train experiments/toy.py --method.towers.image.widht 3",
            "Perhaps you meant: --method.towers.image.width INT",
        ),
        ("train experiments/toy.py --data.train tra:a.tar", "there is no source of kind 'tra'; did you mean tar?"),
        ("train experiments/toy.py --data.train", "argument --data.train: expected one argument"),
        ("train experiments/toy.py --seed a", "invalid literal for int() with base 10: 'a'"),
        ("train experiments/toy.py --run-dir", "argument --run-dir: expected one argument"),
        ("diff experiments/toy.py", "required: EXPERIMENT"),
        ("diff experiments/toy.py experiments", "is not a run: it holds no recipe.json"),
        ("list nowhere", "jaxrep: error: nowhere is not a folder of experiments"),
    ],
)
def test_wrong_command_line_is_status_2_and_trains_nothing(jaxrep_says, toy, trained, line, words):
    status, _, err = jaxrep_says(line)
    assert status == 2 and not trained
    assert words in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_flag_of_another_part_names_the_part_and_the_file(jaxrep_says, toy, trained):
    for flag, sentence in (
        ("--data.order.lanes 2", "data.order is Shuffle, which has no field 'lanes'; there are: seed. Flags change"),
        ("--data.order.lanes=2", f"another part is declared in an experiment file: copy {toy}"),
    ):
        status, _, err = jaxrep_says(f"train {toy} {flag}")
        assert status == 2 and not trained and sentence in err and "Unrecognized" not in err


def test_flag_of_a_mapping_of_floats_is_a_float_whatever_the_file_writes(jaxrep_says, toy, trained):
    with open(toy, "a") as file:
        file.write(
            "drawn = recipe.replace({'data.train': data.SampleCaption(source=recipe.data.train, "
            "probabilities={'text': 5})})\n"
        )
    status, _, err = jaxrep_says(f"train {toy}:drawn --data.train.probabilities.text 0.5")
    assert (status, err) == (0, "")
    assert trained[0][0].data.train.probabilities == {"text": 0.5}


def test_flags_of_parts_that_may_be_absent(jaxrep_says):
    """A memory, a teacher and a scale are None in other recipes: their flags are those of the parts that are there."""
    flags = {"method.memory.size": 512, "method.teacher.momentum.value": 0.5, "method.scale.init": 3.0}
    words = " ".join(f"--{path} {value}" for path, value in flags.items())
    _, out, _ = jaxrep_says(f"show moco:tiny --json {words}")
    assert json.loads(out) == to_json(replace(load("moco:tiny").recipe, flags))
    status, _, err = jaxrep_says("show simsiam:tiny --method.teacher.momentum.value 0.5")
    assert status == 2 and "--method.teacher.momentum.value" in err


def test_length_flag_replaces_the_files_length(jaxrep_says, toy):
    recipe = load(toy).recipe
    assert recipe.examples and not recipe.epochs
    _, out, _ = jaxrep_says(f"show {toy} --json --epochs 3")
    assert json.loads(out) == to_json(recipe.replace(epochs=3.0)) == to_json(recipe.replace(epochs=3.0, examples=0))
    assert recipe.replace(epochs=3.0).replace(examples=64) == recipe.replace(examples=64)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--data.batch-size -8", "data.batch_size: expected a number of at least 1, got -8"),
        (f"--data.batch-size {2**70}", f"data.batch_size: expected a number below 2**63, got int {2**70}"),
        ("--method.towers.image.width 0", "method.towers.image.width: expected a number of at least 1"),
        ("--method.towers.text.heads 0", "method.towers.text.heads: expected a number of at least 1"),
        ("--epochs nan", "epochs: expected "),
        ("--microbatch-size 3", "microbatch_size 3 does not divide the batch"),
    ],
)
@pytest.mark.parametrize("command", ["show", "train", "plan"])
def test_values_out_of_range_are_refused_before_anything_is_done(jaxrep_says, toy, trained, command, flags, sentence):
    status, out, err = jaxrep_says(f"{command} {toy} {flags}")
    assert (status, out) == (2, "") and not trained
    assert sentence in err and "Traceback" not in err


def test_wrong_recipe_of_a_file_is_refused_before_its_run_is_looked_at(jaxrep_says, toy, trained, tmp_path):
    with open(toy, "a") as file:
        file.write("wrong = recipe.replace({'data.batch_size': 0})\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")
    status, _, err = jaxrep_says(f"train {toy}:wrong --run-dir run")
    assert status == 2 and not trained and "data.batch_size: expected a number of at least 1, got 0" in err


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        ("--data.skip-failed-shards True", "data.skip_failed_shards", True),
        ("--data.skip_failed_shards False", "data.skip_failed_shards", False),
        ("--log.tensorboard False --seed 3", "log.tensorboard", False),
        ("--method.towers.image.gated True", "method.towers.image.gated", True),
        ("--log.no-tensorboard", "log.tensorboard", False),
    ],
)
def test_switches_take_an_explicit_true_or_false(jaxrep_says, toy, trained, flags, path, value):
    assert jaxrep_says(f"train {toy} {flags}")[0] == 0
    assert dict(walk(trained[0][0]))[path] is value


def test_flags_that_sentences_advise_are_flags_of_every_recipe(jaxrep_says, toy, trained):
    """``--data.x`` in a message of jaxrep, with the value that follows it."""
    text = "\n".join(path.read_text() for path in Path(jaxrep.__file__).parent.rglob("*.py"))
    advised = set(re.findall(r"--((?:data|mesh|log|checkpoint|optimizer|schedule|profile)\.[a-z-]+)", text))
    assert {"data.skip-failed-shards", "data.train"} <= advised
    known = {path.replace("_", "-") for path, _ in walk(load(toy).recipe)}
    assert advised - known - {"log.no-tensorboard"} == set()


@pytest.mark.parametrize(
    "line",
    [
        "embed run a-0.tar a-1.tar a-2.tar --out x.npz",
        "train toy --data.train tar:a-00.tar tar:a-01.tar tar:a-02.tar",
        "data inspect a-0.parquet,text=b a-1.parquet,text=b",
        "data index pairs-8.tar.gz pairs-9.tar.gz pairs-10.tar.gz",
    ],
)
def test_pattern_that_the_shell_expanded_is_told(jaxrep_says, toy, trained, line):
    status, _, err = jaxrep_says(line)
    assert (
        status == 2 and err.startswith("jaxrep: error: the shell expanded a pattern into ") and "quote it, as '" in err
    )


def test_several_runs_are_no_expanded_pattern(jaxrep_says, toy):
    assert "run-0 is not a run" in jaxrep_says("compare run-0 run-1")[2]


def test_error_in_a_user_s_part_is_one_sentence(jaxrep_says, toy):
    with open(toy, "a") as file:
        file.write(
            "from jaxrep.spec import spec\n\n@spec\nclass Broken(encoders.ViT):\n"
            "    def build(self, rngs, *, inputs):\n        return {}['missing']\n\n"
            "broken = recipe.replace({'method.towers.image': Broken(width=8, depth=1, heads=1)})\n"
        )
    line = len(Path(toy).read_text().splitlines()) - 2
    status, _, err = jaxrep_says(f"show {toy}:broken")
    assert status == 2 and "Traceback" not in err
    assert f"{Path(toy).resolve()}, line {line}, in Broken.build: KeyError: 'missing'" in err


# List, show, diff


HOSTILE = "\x1b[31m\x9b[2K\u202e[/bold]"


def test_text_of_files_is_escaped_on_a_terminal(jaxrep_says, toy):
    Path(toy).write_text(
        Path(toy).read_text().replace("Toy CLIP", "Toy \\x1b[31m[/bold] CLIP").replace("runs/other", HOSTILE)
    )
    for line in (
        "list experiments",
        f"show {toy} --json",
        f"diff {toy} clip",
        f"train {toy}:none",
        "list --match \x1b",
    ):
        _, out, err = jaxrep_says(line)
        assert not set("\x1b\x9b\u202e") & set(out + err)
    assert "\\u001b[31m[/bold] CLIP" in jaxrep_says("list experiments")[1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("x = 'ä'\n".encode("utf-16"), "source code string cannot contain null bytes"),
        ("x = 'ä'\n".encode("latin-1"), "utf-8"),
    ],
)
def test_list_of_a_file_that_is_no_utf8_is_one_sentence(jaxrep_says, tmp_path, content, sentence):
    (tmp_path / "wrong.py").write_bytes(content)
    status, _, err = jaxrep_says(f"list {tmp_path}")
    assert status == 2 and f"{tmp_path}/wrong.py" in err and sentence in err and "Traceback" not in err


def test_list_passes_over_folders_and_broken_links(jaxrep_says, toy):
    Path("experiments/folder.py").mkdir()
    Path("experiments/link.py").symlink_to("nowhere.py")
    status, out, _ = jaxrep_says("list experiments")
    assert status == 0 and "toy" in out and "folder" not in out and "link" not in out
    assert jaxrep_says("list experiments/link.py")[0] == 2


def test_list_shows_folders_presets_and_papers(jaxrep_says, toy):
    status, out, _ = jaxrep_says("list")
    assert status == 0
    text = " ".join(out.replace("│", " ").split())
    assert "toy recipe tiny Toy CLIP: which caption" in text
    assert "image_text/" in text and "siglip recipe siglit" in text, "with those of jaxrep"
    text = jaxrep_says("list --match toy")[1]
    assert "toy" in text and "siglip" not in text
    assert "siglip" not in jaxrep_says("list experiments")[1]


def test_show_prints_the_json_of_a_run(jaxrep_says, toy):
    status, out, _ = jaxrep_says(f"show {toy} --json --seed 9")
    assert status == 0
    assert json.loads(out) == to_json(load(toy).recipe.replace(seed=9))


def test_show_prints_parts_values_and_summary(jaxrep_says, toy, monkeypatch):
    monkeypatch.setattr("jaxrep.step.shapes.model_summary", lambda recipe: {"parameters": 1234567}, raising=False)
    status, out, _ = jaxrep_says(f"show {toy}")
    assert status == 0
    for line in (
        "Recipe",
        "├── data: Data",
        "├── image: ViT",
        "width: 192",
        "scale: (0.5, 1)",
        "parameters: 1,234,567",
    ):
        assert line in out


def test_diff_separates_identity_and_execution(jaxrep_says, toy, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    other = load(toy).recipe.replace({"method.towers.image.width": 384, "log.every_steps": 7})
    (run / "recipe.json").write_text(json.dumps(recipe_json(other)))
    status, out, _ = jaxrep_says(f"diff {toy} {run}")
    assert status == 0
    assert out.splitlines() == [
        "method.towers.image.width: 192 -> 384",
        "in execution only:",
        "log.every_steps: 50 -> 7",
    ]
    assert jaxrep_says(f"diff {toy} {toy}")[1] == "the same run\n"
