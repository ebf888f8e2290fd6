"""Programs that are kept whole: a second start traces and compiles nothing, and computes the same."""

import fsspec
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxrep.step import train_step
from jaxrep.step.programs import Programs
from jaxrep.step.train_step import CompiledStep, compile_step
from jaxrep.training import compilation
from jaxrep.training.step_bench import synthetic_batch
from tests.helpers.harness import RECIPE, logged, set_up


@pytest.fixture
def place(request):
    """A folder of a store in memory."""
    yield f"memory://{request.node.name}"
    fsspec.filesystem("memory").store.clear()


SETUP = set_up(RECIPE)


def step_of(programs: Programs) -> CompiledStep:
    with jax.set_mesh(SETUP.mesh):
        return compile_step(SETUP.recipe, SETUP.shapes, SETUP.updater, 10, SETUP.mesh, programs=programs)


def after_two_steps(step: CompiledStep) -> list[np.ndarray]:
    """The arrays of the state and the metrics after two steps from the first state."""
    batch = synthetic_batch(SETUP.shapes.fields, RECIPE.data.batch_size)
    with jax.set_mesh(SETUP.mesh):
        like = train_step.abstract_state(SETUP.recipe, SETUP.shapes, SETUP.updater, SETUP.mesh)
        state = compilation.initialize(SETUP.recipe, SETUP.shapes, SETUP.updater, like)
        batch = jax.device_put(batch, jax.NamedSharding(SETUP.mesh, jax.P()))
        for _ in range(2):
            state, metrics = step(state, batch)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state, metrics))]


def test_a_kept_step_is_neither_traced_nor_another(place, monkeypatch):
    devices = SETUP.mesh.devices.ravel().tolist()
    laps: list[str] = []
    made = step_of(Programs(place, "one", devices, laps.append))
    assert laps == ["tracing", "compiling"]
    expected = after_two_steps(made)
    with monkeypatch.context() as patch:
        patch.setattr(train_step, "trace_step", lambda *_: pytest.fail("it is traced"))
        laps.clear()
        kept = step_of(Programs(place, "one", devices, laps.append))
    assert laps == ["compiling"] and kept.flops == made.flops
    for one, other in zip(expected, after_two_steps(kept), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_damaged_program_and_another_identity_are_compiled_again(place, monkeypatch):
    devices, traced = SETUP.mesh.devices.ravel().tolist(), []
    trace = train_step.trace_step
    monkeypatch.setattr(train_step, "trace_step", lambda *args: traced.append(args) or trace(*args))
    for identity in ("one", "two", "one"):
        step_of(Programs(place, identity, devices))
    assert len(traced) == 2
    store = fsspec.filesystem("memory")
    for path in store.find(place):
        store.pipe_file(path, store.cat_file(path)[:-9])
    step_of(Programs(place, "one", devices))
    step_of(Programs(place, "one", devices))
    assert len(traced) == 3  # the damaged one is written anew


def test_a_store_that_fails_is_told_and_costs_a_compilation(monkeypatch):
    monkeypatch.setattr("jaxrep.storage.RETRY_WAITS", ())
    with logged() as messages:
        program, fact = Programs("nowhere://x", "one").get("sum", lambda: jax.jit(lambda: 1 + 1).trace(), lambda _: 7)
    assert (program(), fact) == (2, 7)
    assert [text.partition(":")[0] for text in messages] == [
        "a compiled program cannot be used, and is compiled again",
        "a compiled program is not kept",
    ]


def test_a_program_from_jaxs_own_cache_is_kept_only_where_it_is_kept_whole(place, tmp_path):
    def draws():
        return sum(jax.random.normal(jax.random.key(seed), (8, 8)) @ jax.numpy.ones((8, 8)) for seed in range(3))

    def run(identity):
        options = {"xla_backend_optimization_level": 0}
        program, _ = Programs(place, identity).get("draws", jax.jit(draws).trace, lambda _: None, options)
        return program()

    settings = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        reset_cache()
        for name, value in settings.items():
            jax.config.update(name, value)
        expected = run("")
        for _ in range(2):  # the second one would run what was written from JAX's cache
            jax.clear_caches()
            np.testing.assert_array_equal(run("one"), expected)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
