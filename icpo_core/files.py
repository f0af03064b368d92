"""Files that are whole or absent, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".partial"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary neighbour to write to; on success fsync it and rename it to `path`.

    After a crash the target is the old file or the new one, never a part. A left-over neighbour
    ends in `.partial` and is overwritten by the next attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> Path:
    """Write JSON atomically, keys in the order given."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


def read_json(path: Path) -> Any:
    """Read JSON. Raises ValueError with one line if it is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_digest(value: Any) -> str:
    """sha256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def model_digest(folder: Path) -> str:
    """Digest of a model's weights: the version under which its rollouts are recorded.

    Raises ValueError if the folder holds no safetensors weights.
    """
    shards = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not shards:
        raise ValueError(
            f"{folder}: no model here (config.json and *.safetensors are needed); "
            "check model.path, or make the small one with `python -m data.base_model`"
        )
    return canonical_digest({shard.name: sha256_file(shard) for shard in shards})


def link_or_copy(source: Path, target: Path) -> None:
    """Hard link a file; copy it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_path(target) as temporary, source.open("rb") as stream:
            import shutil

            with temporary.open("wb") as sink:
                shutil.copyfileobj(stream, sink, 1 << 22)
