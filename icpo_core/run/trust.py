"""Whose run it is: what a run's own files may choose outside of it.

The configuration in a run's folder can name interpreters, hosts, servers, code and places to write
to. Whoever wrote the folder wrote them. Each such value is therefore sealed with a key of this
user's, beside the run: by this program when the user gave it (a TOML file, `-o`), or by
`icpo trust`. A value that comes from the folder and is not sealed is not followed. Reading a run
needs none of this.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from pathlib import Path

from icpo_core.common import files
from icpo_core.common.keys import outward
from icpo_core.run.run import Run, stored_config

NAME = "trusted.json"
SHOWN = 3


def asked(run: Run) -> dict[str, str]:
    """What a run chooses outside of itself by what lies in its folder, by key: in its own
    configuration, if that was read there, and in those of the runs that it comes from."""
    found: dict[str, str] = {}
    for era in run.eras:
        found |= {f"{era.run}: {key}": value for key, value in outward(era.config).items()}
    if run.stored:
        there = outward(stored_config(run.paths.root))
        mine = outward(run.config)
        found |= {key: value for key, value in there.items() if mine.get(key) == value}
    return found


def missing(run: Run) -> dict[str, str]:
    """What of `asked` this user has not sealed."""
    return unsealed(run.paths.root, asked(run))


def unsealed(root: Path, wanted: dict[str, str]) -> dict[str, str]:
    """What of these values in a folder this user has not sealed there."""
    if not wanted:
        return {}
    known, key = _sealed(root), _key()
    return {name: value for name, value in wanted.items() if _seal(key, name, value) not in known}


def require(run: Run) -> None:
    """Raises ValueError, in one line, if the run's folder chooses what this user did not."""
    wrong = [f"{name} = {value}" for name, value in missing(run).items()]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"{run.paths.root}: its own files set {', '.join(wrong[:SHOWN])}{more}, and nothing "
            f"says that you did; if you agree: `icpo trust {run.paths.root}`, or name your own "
            "TOML file in its place"
        )


def seal(run: Run) -> None:
    """Keep that this user chose what the run's configuration chooses, and that of its eras."""
    seal_values(run.paths.root, outward(run.config) | asked(run))


def seal_values(root: Path, chosen: dict[str, str]) -> None:
    """Keep that this user chose these values in a folder."""
    if not chosen:
        return
    key = _key(make=True)
    known = _sealed(root) | {_seal(key, name, value) for name, value in chosen.items()}
    files.write_json(root / NAME, {"seals": sorted(known)})


def _seal(key: bytes, name: str, value: str) -> str:
    return hmac.new(key, f"{name}={value}".encode(), "sha256").hexdigest()


def _sealed(root: Path) -> set[str]:
    try:
        return set(json.loads(files.read_regular(root / NAME))["seals"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()


def _key(make: bool = False) -> bytes:
    """This user's key, of its own for each home folder; b"" if there is none and none is made."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    file = home / "icpo" / "key"
    try:
        return file.read_bytes()
    except OSError:
        pass
    if not make:
        # Fits no seal that anybody can have made.
        return secrets.token_bytes(32)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = secrets.token_bytes(32)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(key)
    return key
