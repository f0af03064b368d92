"""Files that are whole or absent, and their digests and seals.

Two promises. A process that dies (SIGKILL) leaves every file old or new, never a part: a file is
written beside its place and renamed into it. A machine that loses power leaves no file that passes
for whole: what a manifest names is on the disk before the manifest is (`sync_all`), and a part that
no manifest names yet is read in full before it is trusted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Digest = Callable[[Path], str]
"""sha256 of a file, in hexadecimal digits."""

TEMPORARY_SUFFIX = ".partial"
SYNC_THREADS = 8
HASH_THREADS = min(8, os.cpu_count() or 1)

# Stands where a file's own digest will: replaced by as many hexadecimal digits.
UNSEALED = "icpo-seal:" + "0" * 64
_SEAL = re.compile(rb"icpo-seal:([0-9a-f]{64})")

_DISK = {
    errno.ENOSPC: "no space is left on the disk: free some",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "the file system is read-only: make it writable, or set run.directory elsewhere",
    errno.EACCES: "permission denied: mend it, or set run.directory elsewhere",
    errno.EPERM: "not permitted here: mend it, or set run.directory elsewhere",
    errno.EFBIG: "a file may not grow that large here: raise `ulimit -f`",
    errno.EIO: "the disk fails to read or write: look at it, then go on",
}


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a temporary neighbour to write to; on success rename it to `path`.

    After a crash the target is the old file or the new one, never a part. A left-over neighbour
    ends in `.partial` and is overwritten by the next attempt. `durable`: the file and its name are
    on the disk on return; without it whoever commits the folder sees to that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    temporary.unlink(missing_ok=True)  # where somebody else wrote the folder, it may be a link
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def require_place(path: Path) -> None:
    """Raises ValueError where no file or folder can be made at a path, before work is done for it:
    below a file, in a folder that is read-only or, as those of /proc, none to write in."""
    above = next(one for one in path.absolute().parents if os.path.lexists(one))
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise ValueError(
            f"{path}: nothing can be written in {above} ({error.strerror}); name another place"
        ) from None


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Sequence[Path]) -> None:
    """fsync many at once: the file system then writes its journal once, not once a file."""
    if len(paths) == 1:
        sync(paths[0])
    elif paths:
        with ThreadPoolExecutor(min(SYNC_THREADS, len(paths))) as pool:
            list(pool.map(sync, paths))


def write_json(path: Path, value: Any, durable: bool = True) -> Path:
    """Write JSON atomically, keys in the order given."""
    with atomic_path(path, durable) as temporary:
        temporary.write_text(_text(value), "utf-8")
    return path


def read_json(path: Path) -> Any:
    """Read JSON. Raises ValueError with one line if it is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets without end
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def seal(data: bytes) -> bytes:
    """Fill a file's one unfilled seal with the digest of the rest."""
    empty = UNSEALED.encode()
    assert data.count(empty) == 1
    return data.replace(empty, b"icpo-seal:" + hashlib.sha256(data).hexdigest().encode())


def seal_fits(data: bytes) -> bool:
    """Whether a sealed file is byte for byte what was written."""
    found: list[bytes] = _SEAL.findall(data)
    if len(found) != 1:
        return False
    unsealed = data.replace(b"icpo-seal:" + found[0], UNSEALED.encode())
    return hashlib.sha256(unsealed).hexdigest().encode() == found[0]


def write_sealed(path: Path, value: dict[str, Any], durable: bool = True) -> Path:
    """Write JSON with a last key `seal`, by which any changed byte is found."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(sealed(value))
    return path


def sealed(value: dict[str, Any]) -> bytes:
    """The bytes that `write_sealed` writes."""
    return seal(_text({**value, "seal": UNSEALED}).encode())


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file. Raises FileNotFoundError, and ValueError for anything else: a
    FIFO would be waited for without end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link to itself, a socket
            raise
        raise ValueError(f"{path}: is no regular file; remove it") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path}: is no regular file; remove it")
    with open(descriptor, "rb") as stream:
        return stream.read()


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote. Raises ValueError if it is missing or not as written."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    return unseal(data, str(path))


def unseal(data: bytes, where: str) -> dict[str, Any]:
    """What a sealed file says. Raises ValueError, naming `where`, if it is not as written."""
    if not seal_fits(data):
        raise ValueError(f"{where}: is not as it was written (its seal does not fit)")
    value: dict[str, Any] = json.loads(data)
    del value["seal"]
    return value


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical_digest(value: Any) -> str:
    """sha256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def weight_digests(folder: Path) -> dict[str, str]:
    """sha256 of each of a model folder's weight files, by name.

    Raises ValueError if the folder holds no safetensors weights.
    """
    shards = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not shards:
        raise ValueError(
            f"{folder}: no model here (config.json and *.safetensors are needed); "
            "check model.path, or make the small one with `python -m icpo.data.base_model`"
        )
    if len(shards) == 1:
        return {shards[0].name: sha256_file(shards[0])}
    with ThreadPoolExecutor(min(HASH_THREADS, len(shards))) as pool:
        return dict(zip([one.name for one in shards], pool.map(sha256_file, shards), strict=True))


def model_digest(folder: Path) -> str:
    """Digest of a model's weights: the version under which its rollouts are recorded.

    Raises ValueError if the folder holds no safetensors weights.
    """
    return canonical_digest(weight_digests(folder))


def require_weights(folder: Path, version: str) -> None:
    """Raise ValueError if a folder holds other weights than those of a digest."""
    if (found := model_digest(folder)) != version:
        raise ValueError(
            f"{folder}: holds weights {found[:12]}, the run recorded {version[:12]}; "
            "make the update that wrote them again"
        )


def link_or_copy(source: Path, target: Path) -> None:
    """Hard link a file; copy it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    # A hub cache is symbolic links, and a hard link to one is a relative link in the wrong place.
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def point(link: Path, target: str) -> None:
    """Make a symbolic link to `target`; it is the old link or the new one, never none."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = link.with_name(link.name + TEMPORARY_SUFFIX)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
    sync(link.parent)


def what_the_disk_says(error: BaseException) -> str | None:
    """One line for an error that comes from the disk rather than from us; None for any other."""
    words = str(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{_DISK[error.errno]}; nothing finished is lost"
    # The libraries that write weights and states wrap the operating system's error in their own.
    if os.strerror(errno.ENOSPC) in words:
        return f"{_DISK[errno.ENOSPC]}; nothing finished is lost"
    if "inline_container" in words:  # torch.save on a full disk says only that a position is off
        return "a file could not be written whole: free some space; nothing finished is lost"
    return None


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
