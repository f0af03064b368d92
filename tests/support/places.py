"""Where things lie that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder."""
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
"""Programs that tests start, and what several of them use."""
SMALL = ROOT / "data" / "small"
"""The shipped problem sets and base model."""
DEMO = ROOT / "configs" / "demo.toml"
SHARED = ROOT.parent / "shared"
"""Real data and recorded numbers beside the repository, where they are."""
REAL = SHARED / "data"
