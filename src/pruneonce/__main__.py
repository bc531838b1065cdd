"""`python -m pruneonce` is the command `pruneonce`."""

import sys

from pruneonce.cli import main

sys.exit(main())
