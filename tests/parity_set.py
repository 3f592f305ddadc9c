"""Where the official toolkit's own outputs are: the folder that ROCKETQA_PARITY names, or ../shared/parity."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("ROCKETQA_PARITY") or Path(__file__).parents[2] / "shared" / "parity")
