"""Run the ``jaxrep`` program as ``python -m jaxrep``."""

import sys

from jaxrep.cli import main

if __name__ == "__main__":
    sys.exit(main())
