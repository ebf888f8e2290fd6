"""Checkpoints: what is restored is what was saved, and what was not saved to its end does not exist."""

import contextlib
import errno
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxrep.errors import JaxrepError
from jaxrep.mesh import Mesh
from jaxrep.optim.optimizers import AdamW
from jaxrep.paths import flatten
from jaxrep.recipe import Checkpointing
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.step.train_state import TrainState, state_shardings
from jaxrep.training.loop import train
from tests.helpers.harness import RECIPE, logged

WEIGHTS = "image/blocks/mlp/kernel"


def made(seed=0, ema=True) -> TrainState:
    """A state of odd numbers: NaN, infinity, negative zero, the smallest float, bfloat16, whole numbers."""
    rng = np.random.default_rng(seed)
    odd = jnp.array([np.nan, -np.inf, -0.0, np.float32(1e-45), 0.1, 3.0], jnp.float32)
    params = {WEIGHTS: rng.normal(size=(2, 4, 6)).astype(np.float32), "head/kernel": odd, "scale/log": jnp.float32(2.5)}
    return TrainState(
        params=params,
        non_trainable={"teacher/image/w": jnp.ones(3, jnp.bfloat16) / 3, "queue/at": jnp.int32(7)},
        optimizer=AdamW().build(params).init(params),
        ema={path: value + 1 for path, value in params.items()} if ema else None,
        step=jnp.int32(3),
        skipped=jnp.int32(1),
        key=jax.random.key_data(jax.random.key(seed)),
    )


def test_saves_are_due_by_steps_and_by_the_clock_of_the_first_process(opened, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("jaxrep.runs.checkpoints.time.monotonic", lambda: now[0])
    by_steps, by_clock = opened(every_steps=4), opened(every_steps=4, every_minutes=2.0)
    assert [step for step in range(1, 9) if by_steps.due(step, logged=True)] == [4, 8]
    assert [by_clock.due(step, logged=False) for step in (4, 5)] == [True, False]
    now[0] += 119.0
    assert not by_clock.due(5, logged=True)
    now[0] += 1.0
    assert by_clock.due(5, logged=False) and not by_steps.due(5, logged=False)
    by_clock.save(5, made(), {})
    assert not by_clock.due(6, logged=True)
    # Of several processes the first one decides, on logged steps.
    told = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("jaxrep.hosts.all_gather_object", lambda what, own: told.append(own) or [True, own])
    assert not by_clock.due(6, logged=False) and told == []
    assert by_clock.due(6, logged=True) and told == [False]
    monkeypatch.undo()


def shape(state):
    return jax.eval_shape(lambda: state)


@pytest.fixture
def opened(tmp_path):
    """Opens the checkpoints of a folder; those that were opened are closed at the end."""
    with contextlib.ExitStack() as stack:

        def opener(**fields):
            return stack.enter_context(contextlib.closing(Checkpoints(tmp_path, Checkpointing(**fields))))

        yield opener


def steps(checkpoints):
    """Steps that have a checkpoint."""
    return sorted(checkpoints._manager.all_steps(read=True))


def equal_bits(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == value.dtype, path
        assert np.asarray(found[path]).tobytes() == np.asarray(value).tobytes(), path


@pytest.mark.parametrize("ema", (True, False))
def test_a_state_is_restored_bit_for_bit(opened, ema):
    state = made(ema=ema)
    checkpoints = opened()
    checkpoints.save(3, state, {"position": 2**40})
    checkpoints.wait()
    found, meta = opened().restore(3, shape(state))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    equal_bits(found, state)
    assert meta == {"position": 2**40}
    assert checkpoints.arrays(3).keys() == flatten(state).keys()
    np.testing.assert_array_equal(checkpoints.arrays(3)[f"params/{WEIGHTS}"], state.params[WEIGHTS])


def test_the_latest_few_and_the_best_are_kept(opened):
    checkpoints = opened(keep=2, best="retrieval/r1")
    assert (checkpoints.latest(), checkpoints.best("retrieval/r1")) == (None, None)
    for step, score in ((1, 0.2), (2, 0.9), (3, None), (4, 0.3), (5, None), (6, None)):
        found = None if score is None else {"retrieval/r1": score, "other": 10.0 - step}
        checkpoints.save(step, made(step), {"position": step}, found)
    checkpoints.wait()
    again = opened(keep=2, best="retrieval/r1")
    assert steps(again) == [2, 5, 6]
    assert (again.latest(), again.best("retrieval/r1"), again.best("nothing")) == (6, 2, None)
    equal_bits(again.restore(2, shape(made()))[0], made(2))


def test_without_a_metric_only_the_latest_are_kept(opened):
    checkpoints = opened(keep=1)
    for step in (1, 2, 3):
        checkpoints.save(step, made(step), {"position": step}, {"r1": 1.0 / step})
    checkpoints.wait()
    assert steps(opened()) == [3]
    assert opened().best("r1") == 3  # whichever metric is asked for later, it is known


def test_a_step_that_is_saved_already_stays_as_it_is(opened):
    checkpoints = opened()
    checkpoints.save(3, made(0), {"position": 1})
    checkpoints.wait()
    checkpoints.save(3, made(1), {"position": 2})
    checkpoints.wait()
    state, meta = checkpoints.restore(3, shape(made()))
    assert meta == {"position": 1}
    equal_bits(state, made(0))


def test_a_save_that_was_interrupted_is_not_seen_and_does_not_stand_in_the_way(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(2, made(2), {"position": 2})
    checkpoints.wait()
    folder = tmp_path / "checkpoints"
    # A save writes under this name, and takes the step's own when all of it is on disk.
    shutil.copytree(folder / "2", folder / "4.orbax-checkpoint-tmp")
    (folder / "4.orbax-checkpoint-tmp" / "commit_success.txt").unlink(missing_ok=True)
    again = opened()
    assert (again.latest(), steps(again)) == (2, [2])
    again.save(4, made(4), {"position": 4})
    again.wait()
    assert steps(opened()) == [2, 4]
    equal_bits(opened().restore(4, shape(made()))[0], made(4))


def damage(folder, how):
    """Flip a byte of the largest file of a checkpoint's arrays, remove it, or change the metadata or the digests."""
    if how in ("metadata", "digests"):
        file = folder / {"metadata": "meta", "digests": how}[how] / "metadata"
        file.write_text(file.read_text().replace('"position": 3', '"position": 4') if how == "metadata" else "{}")
        return
    file = max((path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if how == "missing":
        file.unlink()
        return
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("how", ("flipped", "missing", "metadata", "digests"))
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_taken(opened, tmp_path, how):
    checkpoints = opened(keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, made(step), {"position": step})
        checkpoints.wait()
    damage(tmp_path / "checkpoints" / "3", how)
    again = opened(keep=3)
    with logged() as messages:
        step, state, meta = again.restore_latest(shape(made()))
    assert (step, meta, len(messages)) == (2, {"position": 2}, 1)
    assert "the checkpoint of step 3" in messages[0] and "the checkpoint of step 2 is used instead" in messages[0]
    equal_bits(state, made(2))
    assert (tmp_path / "damaged" / "3").is_dir() and steps(again) == [1, 2]
    again.save(3, made(3), {"position": 3})  # its place is free
    again.wait()
    equal_bits(opened(keep=3).restore(3, shape(made()))[0], made(3))


def test_where_every_checkpoint_is_damaged_none_is_moved(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(1, made(1), {"position": 1})
    checkpoints.wait()
    damage(tmp_path / "checkpoints" / "1", "missing")
    with pytest.raises(JaxrepError, match=r"no checkpoint in .* is whole: the checkpoint of step 1"):
        opened().restore_latest(shape(made()))
    assert (tmp_path / "checkpoints" / "1").is_dir() and not (tmp_path / "damaged").exists()


def test_arrays_that_are_not_what_was_saved_are_told_by_name(opened, monkeypatch):
    checkpoints = opened()
    checkpoints.save(1, made(1), {"position": 1})
    checkpoints.wait()
    monkeypatch.setattr("jaxrep.runs.checkpoints.digests", lambda arrays: {path: 0 for path in arrays})
    with pytest.raises(JaxrepError, match=r"step 1 does not hold what was saved: the digest of '.*' is another"):
        checkpoints.restore(1, shape(made()))


@pytest.mark.parametrize(("before", "after"), ((1, 2), (2, 1)))
def test_a_state_is_restored_onto_another_mesh(opened, before, after):
    state = made()

    def placed(devices):
        spec = Mesh(data=1, fsdp=devices, min_shard_size=8)
        mesh = spec.build(jax.devices()[:devices])
        places = state_shardings(RECIPE.replace(mesh=spec), mesh, shape(state))
        return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shape(state), places)

    saved = jax.device_put(state, jax.tree.map(lambda x: x.sharding, placed(before)))
    checkpoints = opened()
    checkpoints.save(1, saved, {"position": 8})
    checkpoints.wait()
    found, _ = checkpoints.restore(1, placed(after))
    equal_bits(found, state)
    assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, placed(after))
    split = P(None, None, "fsdp") if after == 2 else P()
    moments = found.optimizer["image/blocks"][0].mu
    assert [leaf.sharding.spec for leaf in (found.params[WEIGHTS], moments[WEIGHTS], found.ema[WEIGHTS])] == [split] * 3
    assert found.params["head/kernel"].sharding.spec == P()
    equal_bits(checkpoints.arrays(1), flatten(state))


@pytest.mark.parametrize(
    "error",
    (
        OSError(errno.ENOSPC, "No space left on device", "/runs/a"),
        ValueError('RESOURCE_EXHAUSTED: Error writing "params/w/0.0": write failed: No space left on device [28]'),
    ),
)
def test_a_full_disk_is_one_sentence_that_says_what_is_left(opened, tmp_path, monkeypatch, error):
    checkpoints = opened()

    def full(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(JaxrepError) as first:
            checkpoints.save(1, made(), {"position": 8})
    checkpoints.save(2, made(), {"position": 16})
    checkpoints.wait()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "wait_until_finished", full)
        with pytest.raises(JaxrepError) as second:
            checkpoints.wait()
    told = f"a checkpoint could not be written to {tmp_path / 'checkpoints'}: No space left on device; "
    advice = "; make room (or choose another --run-dir) and run the same command to go on"
    assert str(first.value) == f"{told}none was written before{advice}"
    assert str(second.value) == f"{told}the one of step 2 is whole{advice}"


def test_an_error_that_is_not_the_disks_is_not_dressed_up_as_one(opened, monkeypatch):
    checkpoints = opened()
    with monkeypatch.context() as patch:

        def broken(*args, **kwargs):
            raise ValueError("tree structures differ")

        patch.setattr(checkpoints._manager, "save", broken)
        with pytest.raises(ValueError, match="tree structures differ"):
            checkpoints.save(1, made(), {"position": 8})


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_not_begun(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with contextlib.closing(Checkpoints(tmp_path, Checkpointing())) as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros(8)}, {"position": 1})
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=31))
        with pytest.raises(JaxrepError, match="No space left on device; the one of step 1 is whole; make room"):
            checkpoints.save(2, {"a": jnp.zeros(8)}, {"position": 2})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1"]


def test_a_full_disk_elsewhere_in_the_run_directory_is_one_sentence(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxrep.training.loop.prepare", full)
    with pytest.raises(JaxrepError, match="run cannot be written: No space left on device; make room and run the same"):
        train(RECIPE, tmp_path / "run")
