"""Table `batch` as an update reads it: of several files, in the order that it has in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from icpo_core.store import tables
from icpo_core.store.tables import PLACE, Origin


def read(parts: Sequence[Path]) -> pa.Table:
    """All parts, one behind another. Raises ValueError as `tables.read`."""
    return pa.concat_tables([tables.read("batch", path) for path in parts])


def order(batch: pa.Table) -> pa.Array:
    """Its rows as one file would have them: by problem, origin and sample. So the number of parts
    changes no step of an update."""
    if PLACE not in batch.column_names:
        return pa.array(range(batch.num_rows), pa.int64())
    origins = pa.array([origin.value for origin in Origin])
    keys = pa.table(
        {
            "place": batch[PLACE],
            "origin": pc.index_in(batch["origin"], origins),
            "sample": batch["sample_index"],
        }
    )
    return pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
