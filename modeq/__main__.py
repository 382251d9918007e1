"""``python -m modeq``: the command line."""

import sys

from modeq.cli import main

sys.exit(main())
