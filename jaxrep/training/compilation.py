"""Cache compiled functions on disk, and compile functions that run once."""

from collections.abc import Callable
from typing import Any

import jax

from jaxrep.disk_cache import cache_dir
from jaxrep.mesh import platform


def enable_compilation_cache() -> None:
    """Keep compiled functions in jaxrep's cache, or where JAX was told, so that a resumed run starts at once."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def run_jitted_once(function: Callable[[], Any], out_shardings: Any = None) -> Any:
    """Return the value of a function compiled without optimization: on CPUs this compiles four times as fast."""
    options: Any = {"xla_backend_optimization_level": 0} if platform() == "cpu" else None
    return jax.jit(function, out_shardings=out_shardings).lower().compile(compiler_options=options)()
