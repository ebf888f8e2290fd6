"""How functions are compiled, and where compiled ones are kept."""

from collections.abc import Callable
from typing import Any

import jax

from jaxrep.disk_cache import cache_dir
from jaxrep.mesh import platform


def enable_compilation_cache() -> None:
    """Keeps compiled functions in jaxrep's cache (or where jax was told), so that a run that goes on starts at once."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def run_jitted_once(function: Callable[[], Any], out_shardings: Any = None) -> Any:
    """The value of a function that is worth no optimization: on CPUs it compiles four times as fast without."""
    options: Any = {"xla_backend_optimization_level": 0} if platform() == "cpu" else None
    return jax.jit(function, out_shardings=out_shardings).lower().compile(compiler_options=options)()
