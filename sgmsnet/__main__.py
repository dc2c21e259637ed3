"""`python -m sgmsnet`: hands over to the command line, no more."""

from __future__ import annotations

import sys

from sgmsnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
