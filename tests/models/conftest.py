"""Makes the recipe of the built-in model importable as the package ``pocket``."""

import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "models" / "pocket"
sys.path.insert(0, str(RECIPE))
