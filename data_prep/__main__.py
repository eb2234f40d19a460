"""Entry point for `python -m data_prep`, which is the same as `data-prep`."""

import sys

from data_prep.cli import main

if __name__ == "__main__":
    sys.exit(main())
