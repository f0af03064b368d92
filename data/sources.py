"""Where rows come from: a file, or a data set of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icpo_core.common.files import sha256_file
from icpo_core.method.problems import read_rows


@dataclass(frozen=True)
class Source:
    """Rows, what they are called, and what a manifest says of where they come from."""

    name: str
    rows: Iterable[Mapping[str, Any]]
    origin: dict[str, Any]


def from_file(path: Path) -> Source:
    """A Parquet, JSONL, JSON or CSV file. Raises ValueError with one line."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; check the path, or give a hub id such as openai/gsm8k"
        )
    rows = read_rows(path)
    return Source(path.stem, rows, {"file": str(path.resolve()), "sha256": sha256_file(path)})


def from_hub(
    name: str, config: str | None, split: str, revision: str | None, streaming: bool
) -> Source:
    """A data set of the hub, or a folder laid out like one, by `datasets.load_dataset`.

    The revision is fixed to the commit that is found, and recorded. With `streaming` rows come as
    they are read, without a copy on disk. Raises ValueError with one line.
    """
    # Reads its environment (offline mode, cache folder) when imported, and takes a second.
    import datasets

    where = f"{name} ({config}, {split})" if config else f"{name} ({split})"
    try:
        found = datasets.load_dataset_builder(name, config, revision=revision)
        commit = found.hash if re.fullmatch(r"[0-9a-f]{40}", found.hash or "") else None
        rows = datasets.load_dataset(
            name, config, split=split, revision=commit or revision, streaming=streaming
        )
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{where}: cannot be had from the hub ({_first(error)}); check the id, the network and "
            "your login, or download it and give the file"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{where}: {_first(error)}; choose with --split and --config-name"
        ) from error
    origin = {
        "hub": name,
        "config": config,
        "split": split,
        "revision": commit or revision,
        "fingerprint": found.hash,
        "streaming": streaming,
    }
    return Source(name.rstrip("/").rpartition("/")[2], _until_error(rows, where), origin)


def _until_error(rows: Any, where: str) -> Iterator[Mapping[str, Any]]:
    import datasets

    try:
        yield from rows
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{where}: the hub stopped sending ({_first(error)}); try again, or download it first"
        ) from error


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
