"""`icpo init`: a folder of one's own, with all that a first run and its deployments need."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

CONFIGURATION = "icpo.toml"
"""What `icpo train` takes where no configuration is named."""
SCHEMA = "icpo.schema.json"
"""By which an editor completes and checks it; its first line says so."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "init",
        help="make a folder of your own: configuration, small data set, reward, deployments",
        description="Make a folder with a commented configuration, a small data set and model, a "
        "reward to edit and the deployments. Then: icpo train, or icpo up.",
    )
    parser.add_argument("name", help="the folder to make; its last part is the name of the run")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    if not arguments.name:
        raise ValueError("the name is empty: give the folder a name, as icpo init mine")
    folder = Path(arguments.name)
    files = make(folder)
    if arguments.json:
        print(json.dumps({"folder": str(folder), "files": files}))
    else:
        print(
            f"Made {folder}: {', '.join(files)}\n"
            f"Next: cd {folder}\n"
            "      icpo train    # in this process, a few minutes; again to resume\n"
            "      icpo up       # or with a Prefect server: prefect deployment run icpo/train"
        )
    return 0


def make(folder: Path) -> list[str]:
    """Write the files; their names. Raises ValueError if something is there, or the name is odd."""
    from shutil import copyfile, copytree

    from icpo_core.common.files import require_place
    from icpo_core.common.resources import CONFIGS, SHIPPED, SMALL
    from icpo_core.config.schema import schema

    name = folder.resolve().name or str(folder.resolve())
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name}: a run is named by letters, digits, dots, dashes and underscores")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{folder}: is there and not empty; choose another name, or remove it")
    require_place(folder)
    copytree(SMALL, folder / "data", copy_function=copyfile, dirs_exist_ok=True)
    copyfile(CONFIGS / "init" / "reward.py", folder / "reward.py")
    copyfile(CONFIGS / "init" / "gitignore", folder / ".gitignore")
    text = (CONFIGS / "init" / CONFIGURATION).read_text("utf-8")
    (folder / CONFIGURATION).write_text(text.replace('"NAME"', f'"{name}"'), "utf-8")
    text = (SHIPPED / "prefect.yaml").read_text("utf-8")
    (folder / "prefect.yaml").write_text(text.replace("configs/demo.toml", CONFIGURATION), "utf-8")
    (folder / SCHEMA).write_text(json.dumps(schema()), "utf-8")
    return [CONFIGURATION, "reward.py", "prefect.yaml", "data/", ".gitignore", SCHEMA]
