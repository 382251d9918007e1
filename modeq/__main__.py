"""``python -m modeq``: the command line."""

import sys

from modeq.cli.main import main

sys.exit(main())
