"""Files that ship with the program: they lie beside the code, in a checkout as in a wheel."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2] / "icpo"
"""The installed package `icpo`; in a checkout it holds links to the folders at the top."""
CONFIGS = SHIPPED / "configs"
SMALL = SHIPPED / "data" / "small"
"""The small problems and their base model."""


def find(file: Path | str) -> Path:
    """The file itself, or where there is none the shipped one that is called so.

    `configs/demo.toml` is a file in a checkout and names the shipped demo in any other folder.
    """
    path = Path(file)
    shipped = SHIPPED / path
    return shipped if path.parts[:1] == ("configs",) and not path.exists() else path
