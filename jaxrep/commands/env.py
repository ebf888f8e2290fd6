"""Print versions, devices, caches and extras: the environment for a bug report."""

import argparse
import importlib.util
import json
import os

EXTRAS = {
    "wandb": "wandb",
    "gcs": "gcsfs",
    "s3": "s3fs",
    "http": "aiohttp",
    "hub": "huggingface_hub",
    "parquet": "pyarrow",
    "stablehlo": "flatbuffers",
    "tfds": "tensorflow_datasets",
    "report": "plotly",
    "mteb": "mteb",
    "spacy": "spacy",
    "beam": "apache_beam",
    "parity": "torch",
    "docs": "mkdocs",
}
"""Extra -> a module that it brings."""
VARIABLES = ("JAX_", "JAXREP_", "XLA_", "TPU_", "CUDA_", "NVIDIA_")
"""Beginnings of the environment variables that are printed."""


def main(args: list[str]) -> int:
    """Run ``jaxrep env``."""
    argparse.ArgumentParser(prog="jaxrep env", description=__doc__).parse_args(args)
    from jaxrep.disk_cache import cache_dir
    from jaxrep.runs.environment import environment

    facts = environment()
    facts = {name: facts[name] for name in ("python", "platform", "versions", "git", "devices")}
    facts["cache"] = str(cache_dir())
    facts["extras"] = [extra for extra, module in EXTRAS.items() if importlib.util.find_spec(module)]
    facts["variables"] = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    print(json.dumps(facts, indent=1))
    return 0
