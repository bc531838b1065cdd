"""The command `pruneonce`, as `python -m pruneonce`."""

import sys

from pruneonce.cli import main

sys.exit(main())
