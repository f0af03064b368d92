"""Where rows come from: files, folders, or a data set of the Hugging Face hub."""

from __future__ import annotations

import bisect
import glob
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icpo.data.files import ENDINGS, PACKED_ENDINGS, read_file
from icpo_core.common.files import sha256_file

_GLOB = re.compile(r"[*?\[]")
_SPLIT = re.compile(r"(?:^|[^a-z])(train|test|validation|valid|val|dev|eval)(?:[^a-z]|$)")

HUB_SECONDS = 5.0
"""How long the hub is waited for at first."""


@dataclass(frozen=True)
class Source:
    """Rows, what they are called, and what a manifest says of where they come from.

    `about`: what it was taken for, a line each. `place`: the name of a row, counted from 1.
    """

    name: str
    rows: Iterable[Mapping[str, Any]]
    origin: dict[str, Any]
    about: tuple[str, ...] = ()
    place: Callable[[int], str] | None = None


def from_file(path: Path) -> Source:
    """A file that `files.read_file` reads. Raises ValueError with one line."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; check the path, or give a hub id such as openai/gsm8k"
        )
    rows, about = read_file(path)
    name = path.stem
    while Path(name).suffix in (*ENDINGS, *PACKED_ENDINGS):
        name = Path(name).stem
    origin = {"file": str(path.resolve()), "sha256": sha256_file(path)}
    return Source(name, rows, origin, (f"{path}: {about}",), lambda number: f"{path}: row {number}")


def from_path(text: str, split: str | None = None) -> Source:
    """A file, a folder of files of one kind, one that `save_to_disk` wrote, or a glob of files.

    `split`: of several that are there; else train, or the only one. Raises ValueError with one
    line.
    """
    path = Path(text)
    if path.is_file():
        return from_file(path)
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _saved(path, split)
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and _kind(file) and not _hidden(file.relative_to(path))
        )
        if not files:
            raise ValueError(
                f"{path}: holds no file of rows ({', '.join(ENDINGS)}); name the file or folder"
            )
        files, said = _of_split(files, path, split)
        return _several(files, path.name or str(path), str(path.resolve()), said)
    if _GLOB.search(text):
        files = sorted(Path(one) for one in glob.glob(text, recursive=True) if Path(one).is_file())
        if not files:
            raise ValueError(f"{text}: no file is called so; check the pattern and the folder")
        return _several(files, files[0].parent.name or "files", str(Path(text).absolute()), "")
    return from_file(path)


def _several(files: list[Path], name: str, where: str, said: str) -> Source:
    kinds = Counter(_kind(file) or file.suffix or "no ending" for file in files)
    if len(kinds) > 1:
        there = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        kind = next(iter(kinds))
        raise ValueError(
            f"{where}: holds files of several kinds ({there}); name one kind, as '{where}/*{kind}'"
            if not _GLOB.search(where)
            else f"{where}: files of several kinds ({there}); name one kind"
        )
    if len(files) == 1:
        only = from_file(files[0])
        return Source(only.name, only.rows, only.origin, (*only.about, *filter(None, [said])))
    starts: list[int] = []
    first, about = read_file(files[0])

    def rows() -> Iterator[Mapping[str, Any]]:
        number = 1
        starts.clear()
        for file in files:
            starts.append(number)
            for row in first if file == files[0] else read_file(file)[0]:
                yield row
                number += 1

    def place(number: int) -> str:
        at = bisect.bisect_right(starts, number) - 1
        return f"{files[at]}: row {number - starts[at] + 1}"

    origin = {
        "files": [{"file": str(file.resolve()), "sha256": sha256_file(file)} for file in files],
        "path": where,
    }
    lines = (f"{where}: {len(files)} files, {about}", *filter(None, [said]))
    return Source(name, rows(), origin, lines, place)


def _of_split(files: list[Path], folder: Path, split: str | None) -> tuple[list[Path], str]:
    """The files of a split, where their names or folders name splits."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        found = _SPLIT.findall(str(file.relative_to(folder)).lower())
        splits.setdefault(found[-1] if found else "", []).append(file)
    if set(splits) == {""} and split is None:
        return files, ""
    chosen = split or ("train" if "train" in splits else None)
    if chosen is None and len(splits) == 1:
        (chosen,) = splits
    if chosen not in splits or (chosen is None):
        there = ", ".join(name or "files without one" for name in splits)
        raise ValueError(
            f"{folder}: has no split {chosen or 'train'} ({there}); name one by --split"
        )
    others = ", ".join(sorted(name for name in splits if name not in ("", chosen)))
    return splits[chosen], f"  split {chosen}" + (f", and not {others}" if others else "")


def _saved(path: Path, split: str | None) -> Source:
    """A Dataset or a DatasetDict that `datasets` saved."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{path}: save_to_disk wrote it, and it cannot be read ({_first(error)}); save it again"
        ) from error
    about = f"{path}: a Dataset that was saved to disk"
    if isinstance(found, datasets.DatasetDict):
        there = list(found)
        chosen = split or ("train" if "train" in there else there[0] if len(there) == 1 else None)
        if chosen not in there:
            raise ValueError(
                f"{path}: has no split {chosen or 'train'} ({', '.join(there)}); "
                "name one by --split"
            )
        found, about = (
            found[chosen],
            f"{path}: split {chosen} of a DatasetDict ({', '.join(there)})",
        )
    files = sorted({entry["filename"] for entry in found.cache_files})
    origin = {
        "files": [{"file": file, "sha256": sha256_file(Path(file))} for file in files],
        "path": str(path.resolve()),
    }
    return Source(path.name, found, origin, (about,), lambda number: f"{path}: row {number}")


def _kind(file: Path) -> str | None:
    """The ending that tells how a file is read; None of a file of no rows."""
    name = file.name.lower()
    for ending in PACKED_ENDINGS:
        name = name.removesuffix(ending)
    ending = Path(name).suffix
    # What the hub and `datasets` write beside the data.
    if name in ("dataset_info.json", "dataset_infos.json", "state.json", "config.json"):
        return None
    return ending if ending in ENDINGS else None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def from_hub(
    name: str, config: str | None, split: str | None, revision: str | None, streaming: bool
) -> Source:
    """A data set of the hub, or a folder laid out like one, by `datasets.load_dataset`.

    The revision is fixed to the commit that is found, and recorded. `split` None: train, or the
    only one. With `streaming` rows come as they are read, without a copy on disk. Raises ValueError
    with one line.
    """
    # Reads its environment (offline mode, cache folder) when imported, and takes a second.
    import datasets

    split_name = split or "train"
    where = f"{name} ({config}, {split_name})" if config else f"{name} ({split_name})"
    silent = "" if Path(name).is_dir() else _silence(name)
    # A hub that is not there would be asked, for each of several files, six times in 23 s.
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or bool(silent)
    try:
        found = datasets.load_dataset_builder(name, config, revision=revision)
        commit = found.hash if re.fullmatch(r"[0-9a-f]{40}", found.hash or "") else None
        if split is None:
            there = datasets.get_dataset_split_names(name, config, revision=commit or revision)
            split_name = there[0] if len(there) == 1 else split_name
        rows = datasets.load_dataset(
            name, config, split=split_name, revision=commit or revision, streaming=streaming
        )
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{where}: cannot be had from the hub ({silent or _first(error)}); check the id, the "
            "network and your login, or download it and give the file"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{where}: {_first(error)}; choose with --split and --config-name"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    origin = {
        "hub": name,
        "config": config,
        "split": split_name,
        "revision": commit or revision,
        "fingerprint": found.hash,
        "streaming": streaming,
    }
    about = f"{name}: hub, split {split_name}" + (f", commit {commit[:12]}" if commit else "")
    called = name.rstrip("/").rpartition("/")[2]
    return Source(called, _until_error(rows, where), origin, (about,))


def _silence(name: str) -> str:
    """Why the hub does not answer; empty where it does, whatever it says."""
    import huggingface_hub as hub

    try:
        hub.HfApi().dataset_info(name, timeout=HUB_SECONDS)
    except Exception as error:  # noqa: BLE001  of its HTTP client, which is now one and now another
        if type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError"):
            return f"{hub.constants.ENDPOINT} does not answer: {_first(error)}"
    return ""


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
