"""A folder of an object store, or of any other file system that fsspec knows, by its URL.

Objects are whole or absent: a store that does not promise it gets each beside its place first. What
a store has to say comes as two errors, one for a user's mistake and one for a store that is away.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.callbacks import Callback

from icpo_core.common.files import TEMPORARY_SUFFIX

ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"})
"""Protocols whose stores show an object only when all of it is there."""
LOCAL = frozenset({"file", "local"})
THREADS = 8

_ERRORS = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
"""Errors of the stores' own libraries, by module: they have no base in common but these."""
# Those of them that no waiting mends.
_REFUSALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
_T = TypeVar("_T")


class AwayError(OSError):
    """The store does not answer, or cannot do what was asked now; another try may go well."""


class ObjectStore:
    """Objects below a URL, by their name relative to it."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for a protocol that nobody knows, or whose package is missing."""
        self.url = url.rstrip("/")
        self.moved = time.monotonic()
        """When the store last answered or took some bytes."""
        try:
            # Another machine writes too: what was listed a moment ago is asked for again.
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            protocol = self.url.partition("://")[0]
            package = "s3fs: `pip install s3fs`" if protocol in ("s3", "s3a") else str(error)
            raise ValueError(f"{self.url}: a package is missing, {package}") from None
        except ValueError as error:
            raise ValueError(
                f"{self.url}: {error}; give a URL as s3://bucket/runs, gs://bucket/runs or "
                "file:///mnt/runs"
            ) from None
        self._protocol = self.url.partition("://")[0] if "://" in self.url else "file"

    def sizes(self) -> dict[str, int]:
        """Bytes of every object, by name."""
        try:
            found: dict[str, Any] = self._ask(self._fs.find, self._root, detail=True)
        except FileNotFoundError:
            return {}
        prefix = f"{self._root}/"
        return {
            name.removeprefix(prefix): facts["size"]
            for name, facts in found.items()
            if name.startswith(prefix)
        }

    def read(self, name: str) -> bytes | None:
        """An object; None if it is not there."""
        try:
            data: bytes = self._ask(self._fs.cat_file, self._at(name))
        except FileNotFoundError:
            return None
        return data

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Objects by name, several at once; without those that are not there."""
        asked = list(names)
        with ThreadPoolExecutor(THREADS) as pool:
            found = zip(asked, pool.map(self.read, asked), strict=True)
            return {name: data for name, data in found if data is not None}

    def write(self, name: str, data: bytes) -> None:
        """Put an object in place of what is there."""
        self._place(name, lambda path: self._fs.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bool:
        """Put an object unless there is one; False if there was. Where the store has no conditional
        put (S3 and file systems have), it is asked first, which leaves a gap."""
        try:
            if self._protocol in LOCAL:
                self._make_parent(name)
                with self._ask(self._fs.open, self._at(name), "xb") as stream:
                    stream.write(data)
            else:
                self._ask(self._fs.pipe_file, self._at(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, name: str, file: Path) -> None:
        """Upload a file. Raises FileNotFoundError if it is gone."""
        file.stat()
        self._place(name, lambda path: self._fs.put_file(str(file), path, callback=self._watch()))

    def copy(self, source: str, name: str) -> bool:
        """Copy an object within the store, whose bytes are then not uploaded; False if it could
        not be done."""
        try:
            self._place(name, lambda path: self._fs.cp_file(self._at(source), path))
        except AwayError:
            return False
        return True

    def get(self, name: str, file: Path) -> None:
        """Download an object to a file. Raises FileNotFoundError if it is not there."""
        self._ask(self._fs.get_file, self._at(name), str(file), callback=self._watch())

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        try:
            self._ask(self._fs.rm_file, self._at(name))
        except FileNotFoundError:
            return

    def _place(self, name: str, write: Callable[[str], object]) -> None:
        try:
            if self._protocol in ATOMIC:
                self._ask(write, self._at(name))
                return
            self._make_parent(name)
            beside = self._at(name + TEMPORARY_SUFFIX)
            self._ask(write, beside)
            self._ask(self._fs.mv, beside, self._at(name))
        except FileNotFoundError as error:  # someone removes folders under our hands
            raise AwayError(_line(error)) from None

    def _make_parent(self, name: str) -> None:
        self._ask(self._fs.makedirs, self._at(name).rpartition("/")[0], exist_ok=True)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _moved(self) -> None:
        self.moved = time.monotonic()

    def _watch(self) -> Callback:
        """Notes that bytes move, so that a large file is not taken for a store that hangs."""
        return Callback(hooks={"moved": lambda size, value: self._moved()})

    def _ask(self, do: Callable[..., _T], *given: Any, **named: Any) -> _T:
        """Raises FileNotFoundError and FileExistsError as they are, ValueError for what only the
        user can mend, AwayError for anything else that a store's library says."""
        try:
            found = do(*given, **named)
        except (FileNotFoundError, FileExistsError) as error:
            if "bucket does not exist" in str(error).lower():
                raise ValueError(
                    f"{self.url}: there is no such bucket; make it, or mend run.mirror"
                ) from None
            raise
        except PermissionError as error:
            raise ValueError(
                f"{self.url}: the store does not let us ({_line(error)}); mend the credentials in "
                "its own environment variables or files, or run.mirror"
            ) from None
        except _errors() as error:
            if type(error).__name__ in _REFUSALS:
                raise ValueError(
                    f"{self.url}: no credentials ({_line(error)}); set those of the store's own "
                    "library, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                ) from None
            raise AwayError(_line(error)) from error
        self._moved()
        return found


def _errors() -> tuple[type[Exception], ...]:
    """What a store's library raises, of those libraries that are loaded."""
    loaded = [(sys.modules[name], names) for name, names in _ERRORS.items() if name in sys.modules]
    return (OSError, *(getattr(module, name) for module, names in loaded for name in names))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
