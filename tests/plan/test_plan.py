"""A plan tells what a step will need, from shapes alone, and what to do where it does not fit."""

import dataclasses
import importlib.util
import json
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxrep import cli
from jaxrep.encoders.layers import compute_dtype
from jaxrep.experiment import load
from jaxrep.mesh import Mesh, platform
from jaxrep.plan import plan as plans
from jaxrep.plan.collectives import by_kind
from jaxrep.plan.plan import largest, largest_batch, plan, refused_total
from jaxrep.plan.report import in_words, verdict
from jaxrep.plan.topology import devices, memory_bytes, prepare
from jaxrep.step.shapes import validate
from jaxrep.step.train_state import initial_state
from tests.helpers.harness import LOADED, RECIPE, batch, compiled, set_up

MIB = 2**20
TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu: no libtpu here")


@pytest.fixture(scope="module")
def planned():
    return plan(RECIPE, jax.devices()[:2], None)


def test_a_plan_counts_what_a_device_will_hold(planned):
    """Each part as the arrays of a real state and batch on one device, of two that split the rows."""
    setup = set_up(RECIPE)
    state = jax.eval_shape(lambda: initial_state(RECIPE, setup.shapes, setup.updater))

    def size(tree):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    assert planned.memory.params == size(state.arrays)
    assert planned.memory.optimizer == size(state.optimizer)
    assert planned.memory.batch == sum(array.nbytes for array in batch().values()) // 2
    parts = planned.memory.params + planned.memory.optimizer + planned.memory.batch
    assert planned.memory.temporaries > 0
    assert planned.memory.total >= parts + planned.memory.temporaries


def test_a_plan_counts_the_flops_of_the_step_that_training_runs(planned):
    setup = set_up(RECIPE, devices=2)
    with jax.set_mesh(setup.mesh):
        assert planned.flops == compiled(setup).max_flops
    assert planned.fits and planned.seconds is None


def test_parameters_over_fsdp_take_their_share_of_memory():
    wide = RECIPE.replace(mesh=Mesh(fsdp=2, min_shard_size=1))
    (kernel,) = (lying for lying in plan(wide, jax.devices()[:2], None).arrays if lying.path == "image/kernel")
    assert (kernel.shape, kernel.layout, kernel.bytes) == ((48, 6), "P('fsdp',)", 48 * 6 * 4 // 2)


def test_the_largest_batch_is_found_from_below_and_from_above():
    for limit in (0, 7, 8, 100, 1000, 1024, 4095):
        for start in (8, 64, 512, 4096):
            tried = []
            assert largest(lambda size: tried.append(size) or size <= limit, start, 8) == limit // 8 * 8  # noqa: B023
            assert len(tried) == len(set(tried)) <= 20


def test_the_largest_batch_keeps_the_microbatch_and_divides_over_the_devices(monkeypatch):
    """Here a plan costs a byte an example."""
    small = plan(RECIPE, jax.devices()[:1], None)

    def planned(recipe, devices, available):
        memory = dataclasses.replace(small.memory, total=recipe.data.batch_size)
        assert recipe.microbatch_size == 4
        return dataclasses.replace(small, batch_size=recipe.data.batch_size, memory=memory, available=available)

    monkeypatch.setattr(plans, "plan", planned)
    told = []
    found = largest_batch(RECIPE.replace(microbatch_size=4), jax.devices()[:6], 100, told.append)
    assert found.batch_size == 96 and found.fits  # a multiple of 4 and of 6
    assert found in told and all(part.batch_size % 12 == 0 for part in told)
    assert not largest_batch(RECIPE.replace(microbatch_size=4), jax.devices()[:6], 11).fits


def test_what_does_not_fit_is_a_sentence_with_the_numbers_and_the_flags_that_help(planned):
    found = dataclasses.replace(planned, available=1000)
    said = verdict(RECIPE, found)
    assert not found.fits and said is not None
    assert f"batch of 8 does not fit: it needs {found.memory.total / 1024:.2f} KiB" in said
    assert "1000 B" in said and "--microbatch-size 4" in said
    assert verdict(RECIPE, planned) is None


def test_the_microbatch_that_would_help_divides_the_batch(planned):
    found = dataclasses.replace(planned, batch_size=40, available=1000, mesh={"data": 8, "fsdp": 1, "tensor": 1})
    assert "--microbatch-size 8" in (verdict(RECIPE, found) or "")  # 16 is at most half of 40, and does not divide it


def test_a_refusal_of_the_compiler_is_read():
    words = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (33.84G) exceeds "
        "available HBM (15.75G)."
    )
    assert refused_total(words) == int(33.84 * 2**30)
    assert refused_total(words.replace("33.84G", "512.00M")) == 512 * MIB
    assert refused_total("INTERNAL: something else") is None


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (3.81 * 2**30, "3.81 GiB")]
)
def test_sizes_are_told_in_the_unit_that_suits(count, words):
    assert in_words(count) == words


def test_on_a_mesh_of_other_devices_a_step_is_what_they_would_run():
    """On accelerators towers compute in bfloat16, on CPUs in float32, wherever the plan is made."""
    chip = jax.sharding.AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    pod = jax.sharding.AbstractMesh((4,), ("data",), abstract_device=chip)
    assert (platform(), compute_dtype("auto")) == ("cpu", "float32")
    with jax.sharding.use_abstract_mesh(pod):
        assert (platform(), compute_dtype("auto"), compute_dtype("float32")) == ("tpu", "bfloat16", "float32")


# The command


@pytest.fixture(autouse=True, scope="module")
def environment():
    """As it was, once these tests have set what a plan sets."""
    before = dict(os.environ)
    prepare("v5e:2x2")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def jaxrep_plans(capsys):
    """Runs ``jaxrep plan`` on the tiny recipe; gives the exit status and what was printed to the two streams."""

    def run(line):
        status = cli.main(["plan", str(LOADED.path), *line.split()])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_the_command_prints_one_object(jaxrep_plans):
    status, out, _ = jaxrep_plans("--topology cpu:4 --mesh.fsdp 2 --data.batch-size 16 --json")
    found = json.loads(out)
    assert status == 0 and found["fits"] and found["problem"] is None
    assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    memory = found["memory_per_device_bytes"]
    assert set(memory) == {"params", "optimizer", "batch", "temporaries", "total"}
    assert memory["total"] >= memory["params"] + memory["optimizer"] + memory["batch"] + memory["temporaries"]
    assert found["flops_per_example"] == found["flops_per_step"] / 16
    for kind in found["collectives"].values():
        assert kind["bytes"] == sum(kind["over"].values()) > 0


def test_the_command_prints_text_and_where_arrays_lie(jaxrep_plans):
    status, out, err = jaxrep_plans("--topology cpu:2 --layout")
    assert (status, err) == (0, "")
    assert out.startswith("2 x cpu (data 2, fsdp 1, tensor 1)\nbatch 8, 4 examples a device\n")
    for words in ("  temporaries", "FLOPs: ", "collectives a step", "image/kernel       [48, 6]"):
        assert words in out


def test_a_step_that_does_not_fit_is_status_1(jaxrep_plans):
    status, out, err = jaxrep_plans("--topology cpu:2 --memory 0.000001 --json")
    assert status == 1 and not json.loads(out)["fits"]
    assert err == f"jaxrep: {json.loads(out)['problem']}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "--topology is missing"),
        ("--topology cpu:none", "simulated devices are counted, as in cpu:256"),
        ("--topology cpu:2 --find-batch", "--find-batch needs to know the memory of a device of cpu:2: give --memory"),
        ("--topology cpu:4 --mesh.fsdp 3", "does not fit 4 devices"),
        ("--topology cpu:8 --data.batch-size 12", "data.batch_size is 12, which 8 devices (data x fsdp) do not divide"),
        pytest.param("--topology v5e:5x7", "nor known to the TPU compiler", marks=TPU),
    ],
)
def test_a_mistake_is_one_sentence(jaxrep_plans, line, words):
    status, out, err = jaxrep_plans(line)
    assert (status, out) == (2, "")
    assert err.startswith("jaxrep: error: ") and words in err and err.count("\n") == 1


def test_without_the_tpu_compiler_the_extra_is_named(jaxrep_plans, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = jaxrep_plans("--topology v5e:2x2")
    assert status == 1 and "pip install 'jaxrep[tpu]'" in err


# The TPU compiler


@TPU
@pytest.mark.parametrize(
    ("topology", "count", "gib"), [("v5e:1x1", 1, 15.75), ("v4:2x2x1", 4, 30.75), ("v5p:2x2x1", 4, 95.74)]
)
def test_a_device_is_a_chip_with_all_its_memory(topology, count, gib):
    found = devices(topology)
    assert len(found) == count and memory_bytes(found[0]) == int(gib * 2**30)


@TPU
def test_the_tpu_compiler_plans_a_step():
    chips = devices("v5e:2x2")
    found = plan(RECIPE.replace({"log.embedding_metrics": False}), chips, memory_bytes(chips[0]))
    assert found.device == "TPU v5 lite" and found.devices == 4 and found.fits
    assert found.seconds == found.flops / 4 / 197e12
    assert found.traffic is not None and found.traffic["all-reduce", 4].bytes > 0


@TPU
def test_what_the_tpu_compiler_calls_temporaries_is_their_sum_with_the_arguments():
    chip = jax.sharding.SingleDeviceSharding(devices("v5e:1x1")[0])
    held = jax.ShapeDtypeStruct((6 * 2**10, 2**18), jnp.float32, sharding=chip)  # 6 GiB

    def step(x):
        made = jax.lax.broadcasted_iota(jnp.float32, (12 * 2**10, 2**18), 0) * x[0]  # 12 GiB, kept by the barrier
        made = jax.lax.optimization_barrier(made)
        return made[0] + made[1] + x[-1]

    with pytest.raises(jax.errors.JaxRuntimeError) as refusal:
        jax.jit(step).lower(held).compile()
    assert refused_total(str(refusal.value)) == 18 * 2**30


@TPU
@pytest.mark.parametrize("topology", ["v5e:4x4", "v6e:4x4", "v5p:2x2x4"])
def test_axes_of_a_mesh_may_be_parts_of_those_of_the_chips(topology):
    mesh = Mesh(fsdp=4, tensor=2).build(devices(topology))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 2}
    places = [tuple(device.coords) for device in mesh.devices.ravel()]
    assert len(set(places)) == 16
    # Those of ``tensor``, which exchange most, are neighbors.
    for one, other in mesh.devices.reshape(8, 2):
        assert sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)) == 1


EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@TPU
def test_the_tiny_clip_compiles_for_chips_and_moves_no_more_than_it_should():
    """Whole, health panel included: what parameters, rows and activations take, in the worst case."""
    recipe = load(f"{EXPERIMENTS}/clip.py:tiny").recipe.replace(mesh=Mesh(fsdp=2, tensor=2))
    chips = devices("v5e:2x2")
    found = plan(recipe, chips, memory_bytes(chips[0]))
    assert found.fits and found.traffic is not None
    moved = {kind: part.bytes for kind, part in by_kind(found.traffic).items()}
    params = 4 * sum(math.prod(leaf.shape) for leaf in validate(recipe).arrays.values())
    activations = 2 * (256 // 2) * 16 * 128  # bfloat16, of a device's rows; both towers have 16 tokens of width 128
    assert moved["all-gather"] < 2 * params  # over fsdp, forward and backward
    assert moved["reduce-scatter"] < params  # gradients over fsdp
    assert moved["all-reduce"] < 5 * 6 * activations + params  # 6 blocks over tensor, and small gradients


@TPU
@pytest.mark.parametrize(("name", "mesh"), [("mrl", Mesh(fsdp=2)), ("align", Mesh(fsdp=2, tensor=2))])
def test_tiny_convolutional_recipes_compile_for_chips(name, mesh):
    """ALIGN's EfficientNet with its text tower over ``tensor``, MRL's ResNet; gradients are scattered over ``fsdp``."""
    recipe = load(f"{EXPERIMENTS}/{name}.py:tiny").recipe.replace({"log.embedding_metrics": False}, mesh=mesh)
    chips = devices("v5e:2x2")
    found = plan(recipe, chips, memory_bytes(chips[0]))
    assert found.fits and found.traffic is not None
    assert by_kind(found.traffic)["reduce-scatter"].bytes > 0
