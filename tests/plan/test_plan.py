"""Plans state the memory, FLOPs and collectives of a step from shapes, and how to make it fit."""

import dataclasses
import importlib.util
import json
import math
import os

import jax
import jax.numpy as jnp
import pytest

from jaxrep import cli
from jaxrep.data.orders.windows import Windowed
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.layers import compute_dtype
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.experiment import load
from jaxrep.mesh import Mesh, platform
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.plan import layout_process
from jaxrep.plan.collectives import by_kind
from jaxrep.plan.layout_process import plan_layout
from jaxrep.plan.plan import largest_batch, largest_multiple, plan
from jaxrep.plan.program import Program, compile_step, read_layout, refused_total
from jaxrep.plan.report import format_bytes, memory_problem
from jaxrep.plan.topology import devices, memory_bytes, prepare
from jaxrep.step.shapes import validate
from jaxrep.step.train_state import initial_state
from tests.helpers.harness import LOADED, RECIPE, batch, compiled, set_up

MIB = 2**20
HAS_TPU = importlib.util.find_spec("libtpu") is not None
TPU = pytest.mark.skipif(not HAS_TPU, reason="needs the extra tpu: no libtpu here")


@pytest.fixture(scope="module")
def planned():
    return plan(RECIPE, jax.devices()[:2], None)


def test_memory_parts_equal_the_real_state_and_batch(planned):
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


def test_flops_equal_those_of_training(planned):
    setup = set_up(RECIPE, devices=2)
    with jax.set_mesh(setup.mesh):
        assert [planned.flops] == [*compiled(setup).flops.values()]
    assert planned.fits and planned.seconds is None


def test_fsdp_divides_parameter_memory():
    wide = RECIPE.replace(mesh=Mesh(fsdp=2, min_shard_size=1))
    (kernel,) = (array for array in plan(wide, jax.devices()[:2], None).arrays if array.path == "image/kernel")
    assert (kernel.shape, kernel.layout, kernel.bytes) == ((48, 6), "P('fsdp',)", 48 * 6 * 4 // 2)


def test_largest_multiple_from_below_and_above():
    for limit in (0, 7, 8, 100, 1000, 1024, 4095):
        for start in (8, 64, 512, 4096):
            tried = []
            assert largest_multiple(lambda size: tried.append(size) or size <= limit, start, 8) == limit // 8 * 8  # noqa: B023
            assert len(tried) == len(set(tried)) <= 20


def test_largest_batch_is_a_multiple_of_microbatch_and_devices():
    """Here a plan costs a byte an example."""
    small = plan(RECIPE, jax.devices()[:1], None)

    def planner(available):
        def planned(recipe):
            memory = dataclasses.replace(small.memory, total=recipe.data.batch_size)
            assert recipe.microbatch_size == 4
            tried.append(recipe.data.batch_size)
            return dataclasses.replace(small, batch_size=recipe.data.batch_size, memory=memory, available=available)

        return planned

    tried = []
    result = largest_batch(RECIPE.replace(microbatch_size=4), 6, planner(100))
    assert result.batch_size == 96 and result.fits  # a multiple of 4 and of 6
    assert result.batch_size in tried and all(size % 12 == 0 for size in tried)
    assert not largest_batch(RECIPE.replace(microbatch_size=4), 6, planner(11)).fits
    lanes = RECIPE.replace({"data.order": Windowed(lanes=5)}, microbatch_size=4)
    assert largest_batch(lanes, 6, planner(179)).batch_size == 120


def test_memory_problem_has_sizes_and_flags(planned):
    result = dataclasses.replace(planned, available=1000)
    sentence = memory_problem(RECIPE, result)
    assert not result.fits and sentence is not None
    assert f"batch of 8 does not fit: it needs {result.memory.total / 1024:.2f} KiB" in sentence
    assert "1000 B" in sentence and "--microbatch-size 4" in sentence
    assert memory_problem(RECIPE, planned) is None


def test_suggested_microbatch_divides_the_batch(planned):
    result = dataclasses.replace(planned, batch_size=40, available=1000, mesh={"data": 8, "fsdp": 1, "tensor": 1})
    assert "--microbatch-size 8" in (
        memory_problem(RECIPE, result) or ""
    )  # 16 is at most half of 40, and does not divide it


def test_refused_total_parses_the_compiler_message():
    words = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (33.84G) exceeds "
        "available HBM (15.75G)."
    )
    assert refused_total(words) == int(33.84 * 2**30)
    assert refused_total(words.replace("33.84G", "512.00M")) == 512 * MIB
    assert refused_total("INTERNAL: something else") is None


def test_memory_is_what_the_compiler_lays_out(tmp_path):
    """A scan and its gradient on a CPU: its buffer assignment, from the report that the compiler writes."""

    def step(weights, x):
        def loss(weights):
            return jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0] ** 2)

        return weights - jax.grad(loss)(weights)

    lowered = jax.jit(step).lower(
        jax.ShapeDtypeStruct((6, 64, 64), "float32"), jax.ShapeDtypeStruct((32, 64), "float32")
    )
    lowered.compile(compiler_options={"xla_dump_to": str(tmp_path), "xla_dump_hlo_as_text": True})
    (report,) = tmp_path.glob("*memory-usage-report.txt")
    laid_out = int(report.read_text().split("Total bytes: ")[1].split()[0])
    total = compile_step(lowered, "cpu").total
    assert laid_out - 64 <= total <= laid_out  # the report counts a few numbers of the loop as well


def test_layout_is_read_once_the_reports_are_complete(tmp_path):
    stem = "module_0003.jit_step.cl_1.after_optimizations"
    assert read_layout(tmp_path) is None
    (tmp_path / f"{stem}.txt").write_text("HloModule jit_step")
    (tmp_path / f"{stem}-memory-usage-report.txt").write_text(
        "Memory Space: default (color=0)\nTotal bytes: 4096 (4.0KiB)\n  36.0KiB\n\n"
        "Memory Space: vmem (color=1)\nTotal bytes: 512 (512B)\n\nMemory Space: cmem (color=5)\nTotal bytes: 64 (64B)\n"
    )
    assert read_layout(tmp_path) is None
    (tmp_path / f"{stem}_after_buffer_assignment.txt").touch()
    assert read_layout(tmp_path) == Program(4096, "HloModule jit_step", host=64)
    (tmp_path / "module_0000.jit_step.cl_1.oom_intermediate_module.txt").touch()
    assert read_layout(tmp_path) == Program(4096, "HloModule jit_step", host=64, refused=True)


def test_errors_of_the_compiling_process_are_raised(monkeypatch):
    kind, words = (
        (UsageError, "data.batch_size is 8, which 16") if HAS_TPU else (JaxrepError, "pip install 'jaxrep.tpu.'")
    )
    with pytest.raises(kind, match=words):
        plan_layout(RECIPE, "v5e:4x4")
    monkeypatch.setattr(layout_process, "_work", os._exit)  # a process that dies
    with pytest.raises(JaxrepError, match="the process that compiles the step ended early, often for want of memory"):
        plan_layout(RECIPE, "v5e:4x4")


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (3.81 * 2**30, "3.81 GiB")]
)
def test_format_bytes(count, words):
    assert format_bytes(count) == words


def test_dtype_follows_the_devices_of_the_mesh():
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
    """Return a function that runs ``jaxrep plan`` on the tiny recipe and returns status, stdout and stderr."""

    def run(line):
        status = cli.main(["plan", str(LOADED.path), *line.split()])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_command_prints_json(jaxrep_plans):
    status, out, _ = jaxrep_plans("--topology cpu:4 --mesh.fsdp 2 --data.batch-size 16 --json")
    report = json.loads(out)
    assert status == 0 and report["fits"] and report["problem"] is None
    assert report["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    memory = report["memory_per_device_bytes"]
    assert set(memory) == {"params", "optimizer", "batch", "temporaries", "total"}
    assert memory["total"] >= memory["params"] + memory["optimizer"] + memory["batch"] + memory["temporaries"]
    assert report["flops_per_example"] == report["flops_per_step"] / 16
    for kind in report["collectives"].values():
        assert kind["bytes"] == sum(kind["over"].values()) > 0


def test_command_prints_summary_and_layout(jaxrep_plans):
    status, out, err = jaxrep_plans("--topology cpu:2 --layout")
    assert (status, err) == (0, "")
    assert out.startswith("2 x cpu (data 2, fsdp 1, tensor 1)\nbatch 8, 4 examples per device\n")
    for words in ("  temporaries", "FLOPs: ", "collectives per step", "image/kernel       [48, 6]"):
        assert words in out


def test_step_that_does_not_fit_has_status_1(jaxrep_plans):
    status, out, err = jaxrep_plans("--topology cpu:2 --memory 0.000001 --json")
    assert status == 1 and not json.loads(out)["fits"]
    assert err == f"jaxrep: {json.loads(out)['problem']}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "--topology is missing"),
        ("--topology cpu:none", "should state the number of simulated devices, as cpu:256"),
        ("--topology cpu:0", "should state the number of simulated devices, as cpu:256"),
        ("--topology cpu:999999999", "as cpu:256, up to 65,536"),
        ("--topology cpu:2 --find-batch", "--find-batch needs the memory of a device of cpu:2: give --memory"),
        ("--topology cpu:4 --mesh.fsdp 3", "does not fit 4 devices"),
        ("--topology cpu:8 --data.batch-size 12", "data.batch_size is 12, which 8 devices (data x fsdp) do not divide"),
        pytest.param("--topology v5e:5x7", "nor known to the TPU compiler", marks=TPU),
    ],
)
def test_mistakes_are_one_sentence(jaxrep_plans, line, words):
    status, out, err = jaxrep_plans(line)
    assert (status, out) == (2, "")
    assert err.startswith("jaxrep: error: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize("memory", ["nan", "inf", "-1", "0", "1e30", "much"])
def test_memory_out_of_range_is_a_usage_error(jaxrep_says, toy, memory):
    status, _, err = jaxrep_says(f"plan {toy} --topology cpu:2 --memory={memory}")
    assert status == 2 and "argument --memory: expected a number" in err


def test_missing_tpu_compiler_names_the_extra(jaxrep_plans, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = jaxrep_plans("--topology v5e:2x2")
    assert status == 1 and "pip install 'jaxrep[tpu]'" in err


# The TPU compiler


@TPU
@pytest.mark.parametrize(
    ("topology", "count", "gib"), [("v5e:1x1", 1, 15.75), ("v4:2x2x1", 4, 30.75), ("v5p:2x2x1", 4, 95.74)]
)
def test_device_is_a_chip_with_all_its_memory(topology, count, gib):
    result = devices(topology)
    assert len(result) == count and memory_bytes(result[0]) == int(gib * 2**30)


@TPU
def test_the_tpu_compiler_plans_a_step():
    chips = devices("v5e:2x2")
    result = plan(RECIPE.replace({"log.embedding_metrics": False}), chips, memory_bytes(chips[0]))
    assert result.device == "TPU v5 lite" and result.devices == 4 and result.fits
    assert result.seconds == result.flops.executed / 4 / 197e12
    assert result.traffic is not None and result.traffic["all-reduce", 4].bytes > 0


OFFLOAD = RECIPE.replace(
    {"log.embedding_metrics": False},
    method=DualEncoder(
        towers={
            "image": ViT(width=128, depth=4, heads=2, remat="offload", stem=PatchStem(patch=1)),
            "text": RECIPE.method.towers["text"],
        },
        dim=4,
    ),
)


def test_offload_on_a_cpu_is_one_sentence():
    words = "method.towers.image.remat is offload, which keeps .* a CPU has no other memory: take full"
    with pytest.raises(UsageError, match=words):
        plan(OFFLOAD, jax.devices()[:2])


@TPU
def test_offload_puts_the_inputs_of_blocks_into_the_memory_of_the_host():
    """Of a chip's 4 rows of 65 tokens of width 128 in bfloat16, before each of the 4 blocks."""
    result = plan_layout(OFFLOAD, "v5e:1x2")
    assert result.host >= 4 * 4 * 65 * 128 * 2


@TPU
@pytest.mark.parametrize("mesh", [Mesh(fsdp=4, min_shard_size=1), Mesh(fsdp=2, tensor=2, min_shard_size=1)])
def test_kernels_are_gathered_over_fsdp_twice_forward_and_for_the_recomputation(mesh):
    """In bfloat16; other arrays are small. The compiler by itself gathers attention's, a third of them, once more."""
    width, depth = 256, 3
    image = ViT(width=width, depth=depth, heads=2, remat="full", stem=PatchStem(patch=1))
    recipe = OFFLOAD.replace({"data.batch_size": 64, "method.towers.image": image}, mesh=mesh)
    traffic = plan_layout(recipe, "v5e:2x2").traffic
    assert traffic is not None
    once = 2 * 12 * width * width * depth // mesh.tensor
    assert 2 * once <= traffic["all-gather", mesh.fsdp].bytes <= 2.05 * once


@TPU
def test_refusal_counts_arguments_as_temporaries(tmp_path):
    chip = jax.sharding.SingleDeviceSharding(devices("v5e:1x1")[0])
    held = jax.ShapeDtypeStruct((6 * 2**10, 2**18), jnp.float32, sharding=chip)  # 6 GiB

    def step(x):
        made = jax.lax.broadcasted_iota(jnp.float32, (12 * 2**10, 2**18), 0) * x[0]  # 12 GiB, kept by the barrier
        made = jax.lax.optimization_barrier(made)
        return made[0] + made[1] + x[-1]

    lowered = jax.jit(step).lower(held)
    with pytest.raises(jax.errors.JaxRuntimeError) as refusal:
        lowered.compile()
    assert refused_total(str(refusal.value)) == 18 * 2**30
    program = compile_step(lowered, "tpu", tmp_path)
    assert program.refused and program.total == 18 * 2**30 + 2**20  # what the message rounds
    assert read_layout(tmp_path) == program


@TPU
def test_layout_of_a_process_is_that_of_the_whole_program():
    """The process ends before code is generated; arguments, temporaries and collectives are known by then."""
    recipe = RECIPE.replace({"log.embedding_metrics": False}, mesh=Mesh(fsdp=2, min_shard_size=1))
    chips = devices("v5e:2x2")
    early, whole = plan_layout(recipe, "v5e:2x2", memory_bytes(chips[0])), plan(recipe, chips, memory_bytes(chips[0]))
    assert early.code is None and whole.code is not None and whole.code > 0
    assert early == dataclasses.replace(whole, code=None)


@TPU
@pytest.mark.parametrize("topology", ["v5e:4x4", "v6e:4x4", "v5p:2x2x4"])
def test_mesh_axes_may_be_parts_of_chip_axes(topology):
    mesh = Mesh(fsdp=4, tensor=2).build(devices(topology))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 2}
    places = [tuple(device.coords) for device in mesh.devices.ravel()]
    assert len(set(places)) == 16
    # Those of ``tensor``, which exchange most, are neighbors.
    for one, other in mesh.devices.reshape(8, 2):
        assert sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)) == 1


@TPU
def test_tiny_clip_compiles_for_tpu_with_bounded_traffic():
    """Whole, health panel included: what parameters, rows and activations take, in the worst case."""
    recipe = load("clip:tiny").recipe.replace(mesh=Mesh(fsdp=2, tensor=2))
    chips = devices("v5e:2x2")
    result = plan(recipe, chips, memory_bytes(chips[0]))
    assert result.fits and result.traffic is not None
    moved = {kind: part.bytes for kind, part in by_kind(result.traffic).items()}
    params = 4 * sum(math.prod(leaf.shape) for leaf in validate(recipe).arrays.values())
    activations = 2 * (256 // 2) * 16 * 128  # bfloat16, of a device's rows; both towers have 16 tokens of width 128
    assert moved["all-gather"] < 2 * params  # over fsdp, forward and backward
    assert moved["reduce-scatter"] < params  # gradients over fsdp
    assert moved["all-reduce"] < 5 * 6 * activations + params  # 6 blocks over tensor, and small gradients


@TPU
@pytest.mark.parametrize(("name", "mesh"), [("mrl", Mesh(fsdp=2)), ("align", Mesh(fsdp=2, tensor=2))])
def test_tiny_convolutional_recipes_compile_for_tpu(name, mesh):
    """ALIGN's EfficientNet with its text tower over ``tensor``, MRL's ResNet; gradients are scattered over ``fsdp``."""
    recipe = load(f"{name}:tiny").recipe.replace({"log.embedding_metrics": False}, mesh=mesh)
    chips = devices("v5e:2x2")
    result = plan(recipe, chips, memory_bytes(chips[0]))
    assert result.fits and result.traffic is not None
    assert by_kind(result.traffic)["reduce-scatter"].bytes > 0
