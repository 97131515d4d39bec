"""``python -m gemma3n_appliance``."""

import sys

from .cli import main

sys.exit(main())
