"""What does not fit is one sentence, before anything is compiled."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.data.orders.base import Shuffle
from jaxrep.data.orders.windows import Windowed
from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.mesh import Mesh
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Linear
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.optim.rules import LearningRateSchedule
from jaxrep.recipe import Data
from jaxrep.runs.run_dir import RunDir
from jaxrep.schedules import Ramp, Staircase, WarmupCosine
from jaxrep.step.shapes import check_devices, validate
from jaxrep.training import setup
from jaxrep.training.loop import train
from jaxrep.training.setup import make_loader, training_texts, warn_of_lengths, warn_of_shared_shards
from tests.helpers.harness import LOADED, RECIPE, logged, set_up, tiny
from tests.helpers.listed_source import Listed

HEADS = {"image": Linear(features=4), "text": Linear(features=3)}
TWO_WIDTHS = DualEncoder(towers={"image": tiny.Patches(), "text": tiny.Ids()}, dim=4, heads=HEADS)
PAIR = ("image", "text")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": TWO_WIDTHS}, "tower 'text' ends 3 wide and the joint space is 4"),
        ({"objective": {"pair": Contrastive("image", "image/tokens")}}, r"b is float32\[8, 4, 6\], expected"),
        (
            {"objective": {"pair": Contrastive(*PAIR, extra_b="image/tokens")}},
            "extra_b is 6 wide and the rows it meets",
        ),
        (
            {"objective": {"pair": Contrastive(*PAIR, duplicates="ignore", ids=("text/valid",))}},
            r"ids\[0\] is bool\[8, 6\], expected integers \[8\], one per row",
        ),
        ({"objective": {"pair": Contrastive(*PAIR, weights="label")}}, r"weights is int32\[8\], expected floats \[8\]"),
        ({"data.batch_size": 10, "microbatch_size": 4}, "microbatch_size 4 does not divide the batch of 10"),
    ],
)
def test_bad_input_is_told_before_compilation(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        validate(RECIPE.replace(changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.batch_size": 12}, "data.batch_size is 12, which 8 devices .* do not divide: take a multiple of 8"),
        ({"microbatch_size": 4}, "microbatch_size is 4, which 8 devices .* do not divide: take a multiple of 8"),
    ],
)
def test_a_batch_that_the_devices_do_not_divide_is_told(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_devices(RECIPE.replace(changes), Mesh(data=2, fsdp=4).build())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.train": TarShards(shards="missing-{0..3}.tar", image_size=8)}, "missing-"),
        ({"data.train": Csv(path="missing.csv", image_size=8)}, r"missing\.csv"),
        (
            {"data.batch_size": 64},
            "data.batch_size is 64, and the training data hold 32 examples: take a smaller batch",
        ),
        ({"data.tokenizer": TokenizerFile(path="none.json", length=6, entries=9)}, "none.json"),
        ({"data.order": Windowed(lanes=4)}, "the order has 4 lanes, and the data have 1 shard with examples"),
    ],
)
def test_data_that_cannot_be_trained_on_leave_no_run_directory(tmp_path, changes, sentence):
    with pytest.raises(JaxrepError, match=sentence):
        train(RECIPE.replace(changes), tmp_path / "run", LOADED, devices=jax.devices()[:1])
    assert not (tmp_path / "run").exists()


def test_hosts_that_read_the_same_shards_are_told(monkeypatch):
    mesh, sentences = Mesh().build(), []
    for order in (Windowed(lanes=8), Windowed(), Shuffle()):
        data = Data(train=RECIPE.data.train, batch_size=48, order=order)
        with logged() as messages:
            warn_of_shared_shards(data, mesh)  # one process reads all
        assert not messages
        monkeypatch.setattr(setup, "shared_parts", lambda sharding, count, parts: parts // 2 + parts % 2)
        with logged() as messages:
            warn_of_shared_shards(data, mesh)
        sentences.append(messages)
        monkeypatch.undo()
    sentence = (
        "hosts share shards: those of {} of the {} lanes of data.order are read by several hosts; the batches are the "
        "same, and hosts whose number divides data.order.lanes share none"
    )
    assert sentences == [[sentence.format(4, 8)], [sentence.format(1, 1)], []]


def test_too_little_memory_of_a_device_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.\nmore")

    monkeypatch.setattr("jaxrep.training.loop.restore_or_initialize", full)
    with pytest.raises(JaxrepError) as error:
        train(RECIPE.replace(microbatch_size=4), tmp_path / "run", LOADED, devices=jax.devices()[:1])
    assert str(error.value) == (
        "the devices have too little memory for 4 rows at a time (RESOURCE_EXHAUSTED: Out of memory allocating 123 "
        "bytes.): lower microbatch_size (it is 4) or data.batch_size (8), or split the parameters over more devices by "
        "mesh.fsdp (1); `jaxrep plan` computes what a step needs"
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schedule": WarmupCosine(peak=1.0, warmup_steps=1_000)}, "schedule.warmup_steps"),
        ({"schedule": WarmupCosine(peak=1.0, cooldown_steps=1_000)}, "schedule.cooldown_steps"),
        ({"schedule": Staircase(start=1.0, every=1_000)}, "schedule.every"),
        ({"objective.contrastive.weight": Ramp(start=0.0, end=1.0, steps=1_000)}, "objective.contrastive.weight.steps"),
        ({"objective.contrastive.weight": Ramp(start=0.0, end=1.0, after=1_000)}, "objective.contrastive.weight.after"),
        (
            {"optimizer.rules": (LearningRateSchedule(path="**", factor=Ramp(start=0.0, end=1.0, steps=1_000)),)},
            "optimizer.rules.0.factor.steps",
        ),
    ],
)
def test_lengths_that_exceed_the_training_are_warned_of(changes, field):
    recipe = RECIPE.replace(changes)
    with logged() as messages:
        warn_of_lengths(recipe, 20)
    assert messages == [f"{field} is 1000 steps, and the training has 20"]
    with logged() as messages:
        warn_of_lengths(recipe, 1_000)
    assert messages == []


def test_vocabulary_is_learned_from_the_texts_that_can_be_read(tmp_path):
    """A column holds "" for an unreadable text, also for one of several captions."""
    (tmp_path / "texts.csv").write_text('text\na red square\n\n""\nblue\n')
    read = Csv(path=str(tmp_path / "texts.csv"), image="", text="text").open()
    assert [*training_texts(RECIPE, read)] == ["a red square", "blue"] and "" in read.column("text")
    listed = Listed(3, text=[("a cat", ""), ("", ""), "a dog"])
    assert [*training_texts(RECIPE, listed)] == ["a cat", "a dog"]


@pytest.mark.parametrize("platform, background", [("cpu", False), ("gpu", True)])
@pytest.mark.parametrize("threads, expected", [(0, 4), (3, 3)])
def test_loader_has_the_threads_of_the_recipe_or_one_per_core(monkeypatch, platform, background, threads, expected):
    setup = set_up(RECIPE.replace({"data.threads": threads, "data.workers": 2}))
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    monkeypatch.setattr("jaxrep.data._util.parallel.usable_cores", lambda: 9)
    monkeypatch.setattr("jaxrep.training.setup.local_rows", lambda *_: slice(None))
    monkeypatch.setattr("jaxrep.training.setup.NamedSharding", lambda *_: None)
    monkeypatch.setattr("jaxrep.training.setup.Loader", lambda *_, **options: options)
    options: Any = make_loader(dataclasses.replace(setup, mesh=mesh), 0)  # pyright: ignore[reportArgumentType]
    assert (options["threads"], options["workers"], options["background"]) == (expected, 2, background)


def test_a_start_that_fails_after_the_claim_does_not_block_the_mended_recipe(tmp_path, monkeypatch):
    def fails(*_):
        raise UsageError("init.image: 'kernel' has another shape")

    with monkeypatch.context() as patch:
        patch.setattr("jaxrep.training.loop.restore_or_initialize", fails)
        with pytest.raises(UsageError, match="another shape"):
            train(RECIPE, tmp_path / "run", LOADED, devices=jax.devices()[:1])
        assert (tmp_path / "run" / "recipe.json").exists()
        with logged() as messages, pytest.raises(UsageError, match="another shape"):
            train(RECIPE.replace(seed=1), tmp_path / "run", LOADED, devices=jax.devices()[:1])
    assert sum("held another recipe" in each for each in messages) == 1
    assert RunDir(tmp_path / "run").recipe().seed == 1
