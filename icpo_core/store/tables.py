"""The Parquet contract: one schema a table, checked when written and when read.

Every file carries `icpo.table`, `icpo.schema_version` and, for a stage's part, the fingerprint of
the work that made it (`icpo.fingerprint`), so that a finished part is told from another run's.
Columns marked volatile (wall-clock seconds) do not count as content: two verdict tables that
differ only in how long the judge took have the same `content_digest`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icpo_core.common.files import atomic_path
from icpo_core.store.paths import UNFINISHED
from icpo_core.store.versions import SCHEMA_MINOR, SCHEMA_VERSION, is_newer


class Origin(StrEnum):
    """Where a rollout came from."""

    ON_POLICY = "on_policy"  # sampled from the bare prompt
    EXPERT = "expert"  # sampled with demonstrations in the prompt (IEF)
    TRACE = "trace"  # an expert solution from the data set (LUFFY)


class RejectReason(StrEnum):
    """Why a rollout takes no part in the loss. Every rollout is in the batch or has a reason."""

    BELOW_DELTA = "below_delta"  # ERRS: expert rollout with reward < delta
    REPLACED = "replaced"  # ERRS `replace`: on-policy rollout that an accepted expert one displaced
    SPARE_EXPERT = "spare_expert"  # ERRS `replace`: expert rollout with no place left to take
    # ERRS `mask`, select.truncated `mask`: counted in the group's statistics, without loss.
    MASKED = "masked"
    UNJUDGED = "unjudged"  # the judge timed out, failed or abstained: no reward is known
    EMPTY = "empty"  # no token was sampled
    TRUNCATED = "truncated"  # select.truncated `drop`: cut off at rollout.max_tokens
    # prompts.fill: of a group whose rewards are all equal; of one more than the batch asks for.
    NO_SIGNAL = "no_signal"
    SURPLUS = "surplus"
    # select.tuning_buffer: an expert rollout or trace, of which only steps of fine-tuning are made.
    APART = "apart"


def _field(
    name: str, kind: pa.DataType, nullable: bool = False, volatile: bool = False
) -> pa.Field:
    return pa.field(name, kind, nullable, metadata={"volatile": "1"} if volatile else None)


_IDS = pa.list_(pa.field("element", pa.int32(), nullable=False))
_LOGPROBS = pa.list_(pa.field("element", pa.float32(), nullable=False))
_KEYS = [
    _field("prompt_id", pa.string()),
    _field("sample_index", pa.int32()),
    _field("origin", pa.string()),
]

_ROLLOUT = [
    *_KEYS,
    _field("response", pa.string()),
    _field("response_ids", _IDS),
    # Natural logarithm, of the distribution sampled from (temperature applied); null for traces.
    _field("logprobs", _LOGPROBS, nullable=True),
    _field("finish_reason", pa.string()),
    _field("seed", pa.int64()),
    _field("policy_version", pa.string()),
]
_GENERATION = [
    _field("benchmark", pa.string()),
    _field("prompt_id", pa.string()),
    _field("sample_index", pa.int32()),
    _field("response", pa.string()),
    _field("response_ids", _IDS),
    _field("finish_reason", pa.string()),
    _field("seed", pa.int64()),
    _field("policy_version", pa.string()),
]

TABLES: dict[str, pa.Schema] = {
    "problems": pa.schema(
        [
            _field("id", pa.string()),
            _field("problem", pa.string()),
            _field("answer", pa.string()),
            _field("solution", pa.string(), nullable=True),
            _field("source", pa.string()),
        ]
    ),
    "prompts": pa.schema(
        [
            _field("prompt_id", pa.string()),
            _field("problem", pa.string()),
            _field("answer", pa.string()),
            _field("source", pa.string()),
            _field("policy_prompt", pa.string()),
            _field("policy_prompt_ids", _IDS),
            # Null where no demonstrations are used or none fits the token limit.
            _field("expert_prompt", pa.string(), nullable=True),
            _field("expert_prompt_ids", _IDS, nullable=True),
            _field("demo_ids", pa.list_(pa.field("element", pa.string(), nullable=False))),
            # The data set's own solution: the off-policy sample of the LUFFY baseline.
            _field("trace", pa.string(), nullable=True),
        ]
    ),
    "rollout": pa.schema(_ROLLOUT),
    # Partial rollouts: all rows of groups of which one goes on in the next iteration.
    UNFINISHED: pa.schema(_ROLLOUT),
    "verdicts": pa.schema(
        [
            *_KEYS,
            _field("reward", pa.float32()),
            _field("status", pa.string()),
            _field("extracted", pa.string(), nullable=True),
            _field("gold", pa.string()),
            _field("seconds", pa.float32(), volatile=True),
            _field("detail", pa.string()),
        ]
    ),
    "batch": pa.schema(
        [
            *_KEYS,
            _field("prompt_ids", _IDS),  # the bare prompt, always (IEF)
            _field("response_ids", _IDS),
            _field("behaviour_logprobs", _LOGPROBS, nullable=True),
            _field("reward", pa.float32()),
            _field("bonus", pa.float32()),
            _field("shaped_reward", pa.float32()),
            _field("advantage", pa.float32()),
        ]
    ),
    "rejects": pa.schema(
        [
            *_KEYS,
            _field("reward", pa.float32()),
            _field("reason", pa.string()),
        ]
    ),
    # Of an expert rollout with a part in the loss: what the bare prompt gave its tokens, as the
    # loss took it (temperature applied).
    "expert_tokens": pa.schema([*_KEYS, _field("logprobs", _LOGPROBS)]),
    # Self-distillation: what the teacher is shown with each problem, and what it says of each token
    # of a bare rollout. Of its K likeliest tokens there are K a token, one token behind another.
    "lessons": pa.schema(
        [
            _field("prompt_id", pa.string()),
            _field("prompt", pa.string()),
            _field("prompt_ids", _IDS),
        ]
    ),
    "teacher": pa.schema(
        [
            *_KEYS,
            _field("logprobs", _LOGPROBS),
            _field("top_ids", _IDS),
            _field("top_logprobs", _LOGPROBS),
        ]
    ),
    # Fine-tuning between the steps of RL: what waits for a step, or what one is taken on.
    "tuning": pa.schema(
        [
            *_KEYS,
            _field("iteration", pa.int32()),  # which sampled it, or found that it is needed
            _field("prompt_ids", _IDS),  # the bare prompt
            _field("response_ids", _IDS),
        ]
    ),
    # What the trainer says some sequences are worth under the weights it publishes beside: an
    # engine that loads the weights must say the same.
    "probe": pa.schema([_field("token_ids", _IDS), _field("logprobs", _LOGPROBS)]),
    # Evaluation: what is asked, one row a problem.
    "questions": pa.schema(
        [
            _field("benchmark", pa.string()),
            _field("prompt_id", pa.string()),
            _field("prompt", pa.string()),
            _field("prompt_ids", _IDS),
            _field("gold", pa.string()),
            _field("subject", pa.string(), nullable=True),
            _field("level", pa.string(), nullable=True),
            _field("demo_ids", pa.list_(pa.field("element", pa.string(), nullable=False))),
        ]
    ),
    # One row a sample, first without and then with its verdict.
    "generations": pa.schema(_GENERATION),
    "samples": pa.schema(
        [
            *_GENERATION,
            _field("reward", pa.float32()),
            _field("status", pa.string()),
            _field("extracted", pa.string(), nullable=True),
            _field("gold", pa.string()),
            _field("seconds", pa.float32(), volatile=True),
        ]
    ),
}


PIECE = 4096
"""Rows of an array at most, where rows become a table."""
REWARD = "reward/"
"""Beginning of the columns of `verdicts` that say what a reward is made of."""
EXTRA = "extra"
"""What a data set knows of a problem that is for the verifier alone, as JSON."""
BATCH = "batch"
"""Which of an iteration's batches a problem is of, from 0 (`prompts.fill`)."""
TRIES = "tries"
"""Expert prompts of the tries after the first (`rollout.expert_tries`), each with other
demonstrations; fewer where the pool is used up."""
ROUND = "round"
"""Which of an iteration's rounds a rollout was sampled in, from 0."""
SEGMENTS = "segments"
"""Who sampled which tokens of a partial rollout, one stretch behind another: the iteration, the
updates that had made its policy, and how many tokens. `policy_version` is that of the last."""
BEGUN = "begun"
"""Iteration in which a problem's group was begun, where a rollout may go on in the next."""
PLACE = "place"
"""Row of a rollout's problem in the prompts, where a batch is in parts: an update learns from all
of them in that order, however many there are."""
_TRY = pa.struct(
    [
        _field("expert_prompt", pa.string()),
        _field("expert_prompt_ids", _IDS),
        _field("demo_ids", pa.list_(pa.field("element", pa.string(), nullable=False))),
    ]
)
_SEGMENT = pa.struct(
    [_field("iteration", pa.int32()), _field("policy", pa.int32()), _field("tokens", pa.int32())]
)
_SEGMENTS = _field(SEGMENTS, pa.list_(pa.field("element", _SEGMENT, nullable=False)))
MORE: dict[str, dict[str, pa.Field]] = {
    "problems": {EXTRA: _field(EXTRA, pa.string(), nullable=True)},
    "prompts": {
        EXTRA: _field(EXTRA, pa.string(), nullable=True),
        BATCH: _field(BATCH, pa.int32()),
        BEGUN: _field(BEGUN, pa.int32()),
        TRIES: _field(TRIES, pa.list_(pa.field("element", _TRY, nullable=False))),
    },
    "rollout": {ROUND: _field(ROUND, pa.int32()), SEGMENTS: _SEGMENTS},
    UNFINISHED: {SEGMENTS: _SEGMENTS},
    "verdicts": {REWARD: _field("", pa.float32(), nullable=True)},
    "batch": {PLACE: _field(PLACE, pa.int32())},
}
"""Columns that a table may have beside those of its schema, by name, or by what their names begin
with. A table without them is byte for byte what it was before there were any."""


def schema_of(name: str, data: pa.Table) -> pa.Schema:
    """The schema of a table, with what it has of `MORE` in the order of names."""
    schema, more = TABLES[name], MORE.get(name, {})
    for column in sorted(set(data.column_names) - set(schema.names)):
        field = more.get(column) or more.get(column.partition("/")[0] + "/")
        if field is not None:
            schema = schema.append(field.with_name(column))
    return schema


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of the named schema. A missing or extra key is an error."""
    schema = TABLES[name]
    for row in rows:
        assert row.keys() == set(schema.names), sorted(row.keys() ^ set(schema.names))
    # In pieces: one array of strings holds 2 GiB at most.
    pieces = [rows[first : first + PIECE] for first in range(0, len(rows), PIECE)] or [rows]
    return pa.concat_tables([pa.Table.from_pylist(piece, schema=schema) for piece in pieces])


def check(
    name: str, data: pa.Table, where: str | Path, columns: Sequence[str] | None = None
) -> pa.Table:
    """The table itself, if its columns, types and nulls are those of the contract.

    columns: those that are asked for; None: all.
    Raises ValueError with one line that names the file, the column and the mend.
    """
    schema = schema_of(name, data)
    if columns is not None:
        schema = pa.schema([schema.field(column) for column in columns])
    missing = [column for column in schema.names if column not in data.column_names]
    if missing:
        raise ValueError(
            f"{where}: column {missing[0]!r} of table {name!r} is missing; "
            f"it needs {', '.join(schema.names)}"
        )
    data = data.select(schema.names)
    try:
        data = data.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        wrong = [f.name for f in schema if not data.schema.field(f.name).type.equals(f.type)]
        column = wrong[0] if wrong else "a column"
        raise ValueError(
            f"{where}: column {column!r} of table {name!r} must be "
            f"{schema.field(wrong[0]).type if wrong else 'without nulls'} ({error})"
        ) from error
    for column in schema:
        if not column.nullable and data.column(column.name).null_count:
            raise ValueError(f"{where}: column {column.name!r} of table {name!r} has null values")
    return data


@dataclass(frozen=True)
class Written:
    """What is known of a file because it was just written: nobody need read it again."""

    sha256: str
    rows: int | None = None
    content: str | None = None
    """Digest of a table's rows without volatile columns."""


class _Sink:
    """A file that is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self._file, self.digest, self.closed = path.open("wb"), hashlib.sha256(), False

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        self.closed = True


def write(name: str, data: pa.Table, path: Path, fingerprint: str = "") -> Written:
    """Write a checked table so that the file is whole or absent, with page checksums.

    It is on the disk when the stage that it belongs to is committed.
    """
    data = check(name, data, path)
    marks = {
        b"icpo.table": name.encode(),
        b"icpo.schema_version": str(SCHEMA_VERSION).encode(),
        b"icpo.fingerprint": fingerprint.encode(),
    }
    if SCHEMA_MINOR:  # a table of x.0 is byte for byte what it was before there were minor versions
        marks[b"icpo.schema_minor"] = str(SCHEMA_MINOR).encode()
    data = data.replace_schema_metadata(marks)
    with atomic_path(path, durable=False) as temporary:
        sink = _Sink(temporary)
        try:
            pq.write_table(data, sink, compression="zstd", write_page_checksum=True)
        finally:
            sink.close()
    return Written(sink.digest.hexdigest(), data.num_rows, content_digest(name, data))


def read(name: str, path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns, and check it against the contract.

    columns: those of `MORE` are left out where the file has none.
    Raises ValueError if the file is missing, cut short, damaged or of another major version.
    """
    try:
        if columns is not None:
            there = pq.read_schema(path).names
            columns = [one for one in columns if one in there or one not in MORE.get(name, {})]
        data = pq.read_table(
            path,
            columns=columns,
            page_checksum_verification=True,
            partitioning=None,
        )
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a whole Parquet file ({first}); make it again") from error
    marks: dict[bytes, bytes] = data.schema.metadata or {}
    if b"icpo.schema_version" in marks:
        # Columns that a newer minor version has added are left aside by `check`.
        is_newer(
            int(marks[b"icpo.schema_version"]), int(marks.get(b"icpo.schema_minor", 0)), str(path)
        )
    return check(name, data, path, columns)


def read_bytes(data: bytes) -> pa.Table:
    """Rows of a Parquet file in memory.

    On this thread: a thread of Arrow's that lets go of `data` last asks for the GIL, and that
    aborts a process which is just then ending (apache/arrow#34314).
    Raises pyarrow.ArrowException or OSError if it is not whole.
    """
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)


def table_name(path: Path) -> str | None:
    """Name of the table that a Parquet file of ours holds; None of another's file.

    Raises ValueError if the file is not whole.
    """
    try:
        metadata: dict[bytes, bytes] = pq.read_metadata(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a whole Parquet file ({first}); make it again") from error
    name = metadata.get(b"icpo.table", b"").decode()
    return name if name in TABLES else None


def part_fingerprint(path: Path) -> str | None:
    """Fingerprint in a finished part's metadata; None if there is no whole file."""
    try:
        metadata: dict[bytes, bytes] = pq.read_metadata(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        return None
    return metadata.get(b"icpo.fingerprint", b"").decode()


def content_digest(name: str, data: pa.Table) -> str:
    """sha256 of a table's rows without volatile columns, independent of files and chunking."""
    schema = schema_of(name, data)
    columns = [f.name for f in schema if not (f.metadata or {}).get(b"volatile")]
    digest = hashlib.sha256(f"{name}/{SCHEMA_VERSION}/{data.num_rows}".encode())
    for column in columns:
        digest.update(column.encode())
        _update_digest(digest, data.column(column).chunks, data.schema.field(column).type)
    return digest.hexdigest()


def _update_digest(digest: hashlib._Hash, chunks: list[pa.Array], kind: pa.DataType) -> None:
    """Feed values, not buffers: slack bytes, offsets, null slots and the cut into chunks have no
    say. Chunk by chunk: a copy of all in one would need the memory twice, and may exceed what one
    array can address."""
    for array in chunks:
        digest.update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(kind):
        for array in chunks:
            lengths = pc.fill_null(pc.list_value_length(array), 0)
            digest.update(lengths.to_numpy(zero_copy_only=False).tobytes())
        _update_digest(digest, [pc.list_flatten(array) for array in chunks], kind.value_type)
    elif pa.types.is_struct(kind):
        fields = [array.flatten() for array in chunks]
        for place in range(kind.num_fields):
            _update_digest(digest, [one[place] for one in fields], kind.field(place).type)
    elif pa.types.is_string(kind):
        for array in chunks:
            lengths = pc.fill_null(pc.binary_length(array), 0)
            digest.update(lengths.to_numpy(zero_copy_only=False).tobytes())
        for array in chunks:
            for value in array.drop_null():
                digest.update(value.as_buffer())
    else:
        for array in chunks:
            digest.update(array.drop_null().to_numpy(zero_copy_only=False).tobytes())
