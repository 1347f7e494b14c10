"""`python -m pipelines` is `steelyard`."""

import sys

from pipelines.command_line import main

sys.exit(main())
