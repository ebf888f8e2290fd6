"""Put the experiments into the wheel; everything else of the build is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithExperiments(build_py):
    """Copy ``experiments/`` to ``jaxrep/bundled/experiments``, where an installed jaxrep looks short names up."""

    def run(self):
        super().run()
        if not self.editable_mode:  # an editable install reads the checkout
            target = Path(self.build_lib) / "jaxrep" / "bundled" / "experiments"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("experiments", target, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithExperiments})
