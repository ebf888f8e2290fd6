"""Describe the environment of a run: versions, commit, devices, command."""

import datetime
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxrep import __version__
from jaxrep.errors import without_secrets

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
CHECKOUT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, Any]:
    """Return the content of ``environment.json``. Starts the devices."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [without_secrets(word) for word in sys.argv],
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"jaxrep": __version__, **{package: version(package) for package in PACKAGES}},
        "git": git_state(CHECKOUT),
        "devices": devices(),
    }


def version(package: str) -> str | None:
    """Return the installed version of a package, or None: a checkout that is only on the path has none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def devices() -> dict[str, Any]:
    """Describe the devices of all processes."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Return the commit of a checkout and whether tracked files differ from it; None if there is no checkout or git."""
    # A package installed below somebody else's repository must not report that repository's commit.
    top = git(checkout, "rev-parse", "--show-toplevel")
    commit = git(checkout, "rev-parse", "--verify", "HEAD")
    if not top or not commit or Path(top).resolve() != checkout.resolve():
        return None
    return {"commit": commit, "dirty": bool(git(checkout, "status", "--porcelain", "--untracked-files=no"))}


def git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command prints, or None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
