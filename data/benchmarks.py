"""Benchmarks of the registry from the Hugging Face hub, kept as Parquet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icpo.data.sources import from_hub
from icpo_core.common.files import atomic_path, write_json
from icpo_core.evaluation.benchmarks import Benchmark, read
from icpo_core.evaluation.registry import ENTRIES, GROUPS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def gather(names: Sequence[str], folder: Path, option_seed: int | None = 0) -> list[Benchmark]:
    """The benchmarks that `names` name: of the registry (`math500`), a group of it (`paper`), a
    file (`my/problems.jsonl`), or a name for a file (`math500=my/math500.jsonl`).

    What is not a file comes from the hub once and is kept in `folder`. Raises ValueError with one
    line that names the mend.
    """
    wanted: dict[str, str | None] = {}
    for text in names:
        name, separator, file = text.partition("=")
        if separator:
            wanted[name] = file
        elif text in GROUPS:
            wanted |= dict.fromkeys(GROUPS[text])
        elif text in ENTRIES:
            wanted[text] = None
        elif Path(text).is_file():
            wanted[Path(text).stem] = text
        else:
            raise ValueError(
                f"--bench {text}: no such file or benchmark; there are {', '.join(ENTRIES)}, "
                f"the groups {', '.join(GROUPS)}, and NAME=FILE"
            )
    for name in wanted:
        if not _NAME.fullmatch(name):
            raise ValueError(f"--bench {name}: give the file a plain name, as NAME={wanted[name]}")
    return [
        read(name, file or str(fetch(name, folder)), option_seed) for name, file in wanted.items()
    ]


def fetch(name: str, folder: Path) -> Path:
    """Path of a benchmark's Parquet in `folder`, fetched from the hub if it is not there.

    The hub's revision is written beside it. Raises ValueError with one line.
    """
    known, path = ENTRIES[name], folder / f"{name}.parquet"
    if path.is_file():
        return path
    if known.hub is None:
        raise ValueError(
            f"--bench {name}: is not on the hub; download {known.home} and give the file, as "
            f"{name}=FILE"
        )
    source = from_hub(known.hub, known.config, known.split, None, streaming=False)
    rows = [dict(row) for row in source.rows]
    if known.sizes and len(rows) not in known.sizes:
        raise ValueError(
            f"{known.hub}: has {len(rows)} rows where {name} has "
            f"{' or '.join(map(str, known.sizes))}; the hub's data set has changed: give a file"
        )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")
    write_json(path.with_suffix(".source.json"), source.origin | {"licence": known.licence})
    return path
