"""The cache of compiled programs: where it lies, and what identifies a program."""

import dataclasses
from pathlib import Path

import jax
import pytest

from jaxrep.experiment import load
from jaxrep.training.compilation import enable_compilation_cache, program_identity
from tests.helpers.harness import RECIPE


def test_the_identity_of_programs_is_all_that_decides_them(tmp_path, monkeypatch):
    experiment, devices = load("clip:tiny"), jax.devices()[:1]
    recipe = experiment.recipe

    def identity(recipe=recipe, experiment=experiment, devices=devices, *more: object) -> str:
        return program_identity(recipe, experiment, devices, *more)

    plain = identity()
    assert plain and plain == identity()
    copy = dataclasses.replace(experiment, path=tmp_path / "clip.py")
    copy.path.write_bytes(experiment.path.read_bytes())
    assert identity(experiment=copy) == plain
    copy.path.write_bytes(experiment.path.read_bytes() + b"#")
    others = [identity(experiment=copy), identity(recipe.replace(seed=1)), identity(devices=jax.devices()[:2])]
    others += [identity(recipe.replace({"log.every_steps": 3})), program_identity(recipe, experiment, devices, 10)]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    others.append(identity())
    assert len({plain, *others}) == 1 + len(others)
    assert identity(RECIPE) == ""  # parts of a file may use any module


@pytest.mark.parametrize(("told", "of_jax"), [("gs://bucket/x", True), ("memory://bucket", False), ("", False)])
def test_the_cache_may_lie_behind_a_url(told: str, of_jax: bool, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    own = str(tmp_path / "compiled")
    try:
        jax.config.update(names[0], told or None)
        assert enable_compilation_cache() == (told or own)
        assert getattr(jax.config, names[0]) == (told if of_jax else own)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
