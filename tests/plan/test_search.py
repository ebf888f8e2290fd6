"""A search tries the combinations that it names, and keeps those that no other one beats."""

import dataclasses
import itertools
import json
import random

import jax
import pytest

from jaxrep import cli
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.errors import UsageError
from jaxrep.mesh import Mesh
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.plan.plan import Memory, Plan
from jaxrep.plan.report import front_json, front_table
from jaxrep.plan.search import Found, Setting, front, remats, search
from jaxrep.step.flops import StepFlops
from tests.helpers.harness import LOADED, RECIPE, tiny

VIT = RECIPE.replace(
    {"data.batch_size": 64},
    method=DualEncoder(
        towers={"image": ViT(width=8, depth=2, heads=2, stem=PatchStem(patch=4)), "text": tiny.Ids()}, dim=4
    ),
)
BYTES = {"none": 100, "dots": 40, "full": 10}  # a row's activations
COST = {"none": 3.0, "dots": 3.2, "full": 4.0}  # a row's FLOPs, of which the model has three


def costed(batch, microbatch, remat, available):
    """The plan of a step whose cost is known: activations of a microbatch, and one more forward pass for it."""
    memory = Memory(0, 0, 0, 0, batch + BYTES[remat] * (microbatch or batch))
    flops = StepFlops(3.0 * batch, (COST[remat] + (1 if microbatch else 0)) * batch, "float32")
    return Plan("chip", {"data": 8}, batch, microbatch, memory, available, False, flops, None, None, ())


def planner(available, tried):
    def planned(recipe):
        tower = recipe.method.towers["image"]
        tried.append((recipe.data.batch_size, recipe.microbatch_size, tower.remat))
        return costed(*tried[-1], available)

    return planned


def test_all_combinations_are_tried_and_the_front_is_theirs():
    tried = []
    found = search(VIT, ["remat", "microbatch"], 8, planner(None, tried))
    assert sorted(tried) == sorted((64, size, remat) for size, remat in itertools.product((0, 32, 16, 8), BYTES))
    points = [(batch + BYTES[remat] * (size or batch), COST[remat] + bool(size)) for batch, size, remat in tried]
    expected = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert [each.plan.memory.total for each in found] == sorted(size for size, _ in expected)
    assert [each.flops * 3 for each in found] == pytest.approx(sorted((cost for _, cost in expected), reverse=True))
    assert [each.setting.remat for each in found] == ["full", "dots", "full", "dots", "none"]
    assert [each.setting.microbatch for each in found] == [8, 8, 0, 0, 0]


def test_larger_batches_are_tried_as_long_as_a_setting_fits():
    tried = []
    found = search(VIT, ["remat", "batch"], 8, planner(3000, tried))
    # 64 fits with dots and full, 256 with full alone; none is not tried again, nor dots from 128 on.
    assert tried == [
        (64, 0, "none"), (64, 0, "dots"), (64, 0, "full"), (128, 0, "dots"), (128, 0, "full"), (256, 0, "full"),
        (512, 0, "full"),
    ]  # fmt: skip
    assert [(each.setting.batch, each.setting.remat) for each in found] == [
        (64, "full"), (64, "dots"), (128, "full"), (256, "full"),
    ]  # fmt: skip


def test_what_is_not_searched_stays_as_the_recipe_says():
    tried = []
    (found,) = search(VIT.replace(microbatch_size=16), ["batch"], 8, planner(64 + 40 * 16, tried))
    assert tried == [(64, 16, "dots"), (128, 16, "dots")] and found.setting == Setting(64, 16, "")
    assert search(VIT, ["remat"], 8, planner(1, [])) == []


def test_front_holds_what_nothing_beats_against_a_plain_comparison():
    rng = random.Random(0)
    for _ in range(50):
        settings = [Setting(rng.choice((8, 16)), 0, str(number)) for number in range(12)]
        plans = [costed(each.batch, 0, "none", None) for each in settings]
        found = [
            Found(
                setting,
                dataclasses.replace(
                    plan,
                    memory=dataclasses.replace(plan.memory, total=rng.randrange(6)),
                    flops=StepFlops(1.0, rng.randrange(6), "float32"),
                ),
            )
            for setting, plan in zip(settings, plans, strict=True)
        ]
        points = [(each.setting.batch, each.plan.memory.total, each.flops) for each in found]
        best = {p for p in points if not any(q != p and q[0] == p[0] and q[1] <= p[1] and q[2] <= p[2] for q in points)}
        kept = front(found)
        assert [(each.setting.batch, each.plan.memory.total, each.flops) for each in kept] == sorted(best)


def test_remat_of_convolutional_networks_is_a_switch_and_names_are_dropped():
    tower = VIT.method.towers["image"]
    towers = {"image": dataclasses.replace(tower, remat="names", save=("hidden",)), "other": ResNet.resnet18()}
    mixed = VIT.replace(method=dataclasses.replace(VIT.method, towers=towers))
    for remat in remats(mixed):
        image, other = Setting(64, 0, remat).applied(mixed).method.towers.values()
        assert (image.remat, image.save, other.remat) == (remat, (), remat == "full")
    assert remats(mixed) == ("none", "dots", "full")
    convolutional = {"image": ResNet.resnet18(), "text": tiny.Ids()}
    assert remats(VIT.replace(method=dataclasses.replace(VIT.method, towers=convolutional))) == ("none", "full")


def test_mistakes_are_one_sentence():
    with pytest.raises(UsageError, match="--find remat: no encoder of the recipe has the field remat"):
        search(RECIPE, ["remat"], 8, planner(None, []))
    with pytest.raises(UsageError, match="fsdp=3, tensor=1 does not fit 8 devices"):
        search(VIT.replace(mesh=Mesh(fsdp=3)), ["microbatch"], 8, planner(None, []))


def test_report_has_a_line_per_setting():
    found = search(VIT, ["remat", "microbatch"], 8, planner(None, []))
    lines = front_table(found)
    assert lines[0].split() == ["batch", "microbatch", "remat", "memory", "FLOPs", "/", "model's"]
    assert lines[1].split() == ["64", "8", "full", "144", "B", "1.667"] and len(lines) == 1 + len(found)
    assert front_json(found)[0] == {
        "batch": 64, "microbatch": 8, "remat": "full", "memory_per_device_bytes": 144, "flops_per_step": 320.0,
        "flops_over_model": 320 / 192,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("--find remat,depth", 2, "expected some of remat,microbatch,batch, each once, got 'remat,depth'"),
        ("--find batch,batch", 2, "each once, got 'batch,batch'"),
        ("--find batch", 2, "--find batch needs the memory of a device of cpu:2: give --memory GIB"),
        ("--find remat", 2, "--find remat: no encoder of the recipe has the field remat"),
        ("--find batch --find-batch --memory 1", 2, "--find prints several settings: leave out --find-batch"),
        ("--find microbatch --memory 0.000001", 1, "none of the settings fits: try more devices"),
    ],
)
def test_wrong_searches_are_told(capsys, line, status, words):
    try:
        assert cli.main(["plan", str(LOADED.path), "--topology", "cpu:2", *line.split()]) == status
    except SystemExit as exit:
        assert exit.code == status
    assert words in capsys.readouterr().err


def test_command_prints_the_front(capsys):
    """One microbatch less costs no FLOPs and saves memory, so of three the smallest is kept, and the whole batch."""
    line = ["--topology", "cpu:2", "--find", "microbatch", "--json"]
    assert cli.main(["plan", str(LOADED.path), *line]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert {row["batch"] for row in found} == {8} and len(jax.devices()) >= 2
    assert printed.err.count("batch 8") == 3  # in one, by 4 and by 2
    sizes = [row["memory_per_device_bytes"] for row in found]
    flops = [row["flops_over_model"] for row in found]
    assert sizes == sorted(sizes) and flops == sorted(flops, reverse=True)
