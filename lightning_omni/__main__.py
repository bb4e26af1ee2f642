"""Run the command line with `python -m lightning_omni`."""

import sys

from lightning_omni.cli import main

if __name__ == "__main__":
    sys.exit(main())
