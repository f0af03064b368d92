"""From a mirror into a run's folder: the way back of `icpo_core.mirror.mirror`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from icpo_core.common import files
from icpo_core.common.files import TEMPORARY_SUFFIX
from icpo_core.mirror.claim import CLAIM
from icpo_core.mirror.mirror import Key, Mirror, Progress, is_recorded, names_gone, parsed_or_none
from icpo_core.mirror.object_store import THREADS
from icpo_core.store.manifest import FileRecord
from icpo_core.store.paths import MANIFEST, PRUNED, checked, place_of

HEAVY = ("model/", "state/")
"""Weights and trainer states: what looking into a run does not need."""


def fetch(
    mirror: Mirror, light: bool = False, tell: Progress = lambda done, all_: None
) -> list[str]:
    """Bring the folder to what the mirror has; in words, which stages could not be had whole: they
    are not there then, and are made again when the run goes on.

    What is there already, to the digest, stays. `light`: without weights and trainer states.
    Killed, it leaves whole stages, and begins again where it was: the run's record comes last.
    """
    mirror.look()
    wrong: list[str] = []
    done, keys, paths = 0, mirror.stages, mirror.paths
    own = (CLAIM, paths.latest.name, paths.lock.name)
    # The weights of a checkpoint are those of its update, and are linked to them.
    for of_checkpoints in (False, True):
        chosen = [key for key in keys if (key[0] == "checkpoint") is of_checkpoints]
        with ThreadPoolExecutor(THREADS) as pool:
            for words in pool.map(lambda key: _fetch_stage(mirror, key, light), chosen):
                done += 1
                tell(done, len(keys))
                wrong += [words] if words else []
    beside = [name for name in mirror.names if not name.startswith("it-")]
    for name in sorted(beside, key=lambda name: name == paths.record.name):
        if name not in own and not name.endswith(TEMPORARY_SUFFIX):
            try:
                paths.inside((paths.root / checked(name)).parent)
            except ValueError as error:
                wrong.append(f"{mirror.store.url}: an object is left out, {error}")
                continue
            with files.atomic_path(paths.root / name) as temporary:
                mirror.store.get(name, temporary)
    target = (mirror.store.read(paths.latest.name) or b"").decode("utf-8", "replace").strip()
    place = place_of(Path(target))
    if place is not None and paths.manifest(*place).is_file():
        files.point(paths.latest, paths.place(*place))
    return wrong


def _fetch_stage(mirror: Mirror, key: Key, light: bool) -> str | None:
    """A stage, its manifest last; in words, what of it could not be had."""
    paths, store = mirror.paths, mirror.store
    place, path = paths.place(*key), paths.manifest(*key)
    folder = paths.inside(paths.stage(*key))
    data = store.read(f"{place}/{MANIFEST}")
    known = parsed_or_none(data, place) if data is not None else None
    if data is None or known is None:
        return None  # taken away since: it is being uploaded anew
    mark = store.read(f"{place}/{PRUNED}")
    if not path.is_file() or path.read_bytes() != data:
        path.unlink(missing_ok=True)
        names = {one.name for one in known.files}
        for each in sorted(folder.rglob("*")):
            if each.is_file() and each.relative_to(folder).as_posix() not in names:
                each.unlink()
    there = []
    for one in known.files:
        if one.name in names_gone(mark) or (light and one.name.startswith(HEAVY)):
            continue
        wrong = _fetch_file(mirror, key, one)
        if wrong is None:
            there.append(folder / one.name)
            continue
        mark = store.read(f"{place}/{PRUNED}")
        if one.name not in names_gone(mark):
            path.unlink(missing_ok=True)
            return f"{store.url}/{place}/{one.name}: {wrong}; {place} is left out"
    folder.mkdir(parents=True, exist_ok=True)
    paths.damaged(*key).unlink(missing_ok=True)
    if mark is not None:
        _write(paths.pruned(*key), mark)
    else:
        paths.pruned(*key).unlink(missing_ok=True)
    files.sync_all([*there, folder, folder.parent])
    _write(path, data)
    return None


def _fetch_file(mirror: Mirror, key: Key, one: FileRecord) -> str | None:
    path = mirror.paths.file(*key, one.name)
    if is_recorded(path, one):
        return None
    twin = mirror.paths.stage("update", key[1]) / one.name
    if key[0] == "checkpoint" and is_recorded(twin, one):
        files.link_or_copy(twin, path)
        return None
    fetched = path.with_name(path.name + TEMPORARY_SUFFIX)
    fetched.parent.mkdir(parents=True, exist_ok=True)
    try:
        mirror.store.get(f"{mirror.paths.place(*key)}/{one.name}", fetched)
    except FileNotFoundError:
        return "is missing"
    if not is_recorded(fetched, one):
        fetched.unlink()
        mirror.damaged.add(f"{mirror.paths.place(*key)}/{one.name}")
        return "is not what was recorded (sha256 differs)"
    fetched.replace(path)
    return None


def _write(path: Path, data: bytes) -> None:
    with files.atomic_path(path, durable=False) as temporary:
        temporary.write_bytes(data)
