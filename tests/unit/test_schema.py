"""The schema takes every shipped configuration, and refuses what the program refuses."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest

from icpo_core.config.schema import schema

FILES = ["demo.toml", "one-gpu.toml", "one-gpu-lora.toml", "init/icpo.toml"]


def shipped(root: Path) -> list[Path]:
    folder = root / "configs"
    return [
        *(folder / name for name in FILES),
        *folder.glob("presets/*.toml"),
        *folder.glob("paper/*.toml"),
    ]


def test_it_is_a_schema_and_takes_what_ships(root: Path) -> None:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    files = shipped(root)
    assert len(files) > 10
    for file in files:
        jsonschema.validate(tomllib.loads(file.read_text()), found)
    # Each key says what it is for.
    keys = found["$defs"]["RolloutSection"]["properties"]
    assert all(one.get("description") or "$ref" in str(one) for one in keys.values())


@pytest.mark.parametrize(
    "text",
    [
        "[update]\nlr = 1.0",
        "[rollout]\non_policy = -1",
        "[run]\niterations = 'many'",
        "[nothing]\nx = 1",
        "[loss]\nkl = 'maybe'",
    ],
)
def test_it_refuses_what_the_program_refuses(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), schema())


def test_none_and_a_path_stand_where_they_may() -> None:
    for text in (
        '[update]\ndeepspeed = "configs/deepspeed/zero2.json"',
        '[rollout]\npython = "none"',
        '[rollout]\npython = "/opt/python"',
    ):
        jsonschema.validate(tomllib.loads(text), schema())


def test_the_command_prints_it() -> None:
    words = [sys.executable, "-m", "icpo", "schema"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(schema()))
