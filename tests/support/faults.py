"""Faults that strike a run at work: its processes, its files, its disk, its server, its clock."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from damage import flip
from places import SUPPORT

MARK = "ICPO_CHAOS"
"""Variable that all processes of a run inherit."""
DAY = 86400
ROLES = {
    "engine": "icpo_core.engine.process",
    "trainer": "icpo_core.trainer.process",
    "judges": "icpo_core.grading.process",
    "watcher": "icpo-watcher",
    "server": "prefect.server",
}
"""Processes of a run by words of their command lines."""
DISK_BYTES = 256 << 20


@dataclass
class Place:
    """Where a run is struck: its folder, its disk, and what its processes inherit."""

    runs: Path
    """Folder of runs, a file system of its own where that may be."""
    control: Path
    """Two numbers that `faults.c` reads."""
    mark: str
    library: Path | None
    """`faults.c`, compiled; None without a compiler, and then neither clock nor slow disk."""
    own_disk: bool
    draw: random.Random
    pause: float
    """Seconds, at most, that what passes by itself lasts."""
    spared: set[int] = field(default_factory=set)
    """Ids of processes that are no part of the run."""
    now: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def run(self) -> Path:
        return self.runs / "run"

    @property
    def environment(self) -> dict[str, str]:
        found = {MARK: self.mark, "CHAOS_CONTROL": str(self.control)}
        return found | ({"LD_PRELOAD": str(self.library)} if self.library else {})

    def tell(self, clock: int | None = None, slow: int | None = None) -> None:
        """Set what `faults.c` adds: seconds to the clock, microseconds to changes of the disk."""
        self.now = [self.now[0] if clock is None else clock, self.now[1] if slow is None else slow]
        with self.control.open("r+b") as stream:
            stream.write(struct.pack("qq", *self.now))

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The living processes of the run, by role; `run` is the one that drives."""
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid in self.spared or process.environ().get(MARK) != self.mark:
                    continue
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = " ".join(process.cmdline())
                role = next((name for name, part in ROLES.items() if part in words), "run")
                found.setdefault(role, []).append(process)
        return found


@contextmanager
def place(folder: Path, seed: int, pause: float) -> Iterator[Place]:
    """A place for runs; mounts a small disk for it where that is allowed."""
    runs, control, library = folder / "runs", folder / "control", folder / "faults.so"
    runs.mkdir(parents=True)
    control.write_bytes(bytes(16))
    compiler = shutil.which("cc")
    if compiler:
        build = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SUPPORT / "faults.c")]
        subprocess.run(build, check=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(runs)]
    mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield Place(
            runs, control, str(folder), library if compiler else None, mounted,
            random.Random(seed), pause,
        )  # fmt: skip
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(runs)], check=True)


# --- processes --------------------------------------------------------------------------------


def chosen(place: Place, role: str | None) -> psutil.Process | None:
    found = place.processes()
    roles = [role] if role else sorted(found.keys() - {"server", "watcher"})
    some = [process for name in roles for process in found.get(name, [])]
    return place.draw.choice(some) if some else None


def kill(role: str | None) -> Fault:
    def fault(place: Place) -> str | None:
        process = chosen(place, role)
        if process is None:
            return None
        with suppress(psutil.Error):
            said = f"{process.pid} {' '.join(process.cmdline()[:4])[:80]}"
            process.kill()
            return said
        return None

    return fault


def stop(place: Place) -> str | None:
    """SIGSTOP, and SIGCONT some seconds later."""
    process = chosen(place, None)
    if process is None:
        return None
    with suppress(psutil.Error):
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(place.draw.uniform(0, place.pause))
        finally:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        return str(process.pid)
    return None


# --- files ------------------------------------------------------------------------------------


def finished(place: Place) -> Path | None:
    """A file of the run, whichever."""
    files = [
        path
        for path in sorted(place.run.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and path.suffix != ".partial"
        and "logs" not in path.relative_to(place.run).parts
        and "aside" not in path.relative_to(place.run).parts
        and _size(path)
    ]
    return place.draw.choice(files) if files else None


def _size(path: Path) -> int:
    """0 of one that retention has just removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _unlinked(path: Path) -> None:
    """Its own bytes: on one disk the base model's tokenizer is linked into the run."""
    copy = path.with_name(path.name + ".partial")
    shutil.copy2(path, copy)
    copy.replace(path)


def on_a_file(harm: Callable[[Place, Path], None]) -> Fault:
    def fault(place: Place) -> str | None:
        path = finished(place)
        if path is None:
            return None
        try:
            if not place.own_disk and path.stat().st_nlink > 1:
                _unlinked(path)
            harm(place, path)
        except FileNotFoundError:  # the run was quicker
            return None
        return str(path.relative_to(place.run))

    return fault


def flipped(place: Place, path: Path) -> None:
    flip(path, place.draw.randrange(path.stat().st_size))


def cut(place: Place, path: Path) -> None:
    os.truncate(path, place.draw.randrange(path.stat().st_size))


def lost(place: Place, path: Path) -> None:
    path.unlink()


def strange(place: Place, path: Path) -> None:
    """A file that nobody wrote."""
    shutil.copy(path, path.with_name(f"part-00099-of-{place.draw.randrange(100):05d}.parquet"))


# --- disk and clock ---------------------------------------------------------------------------


def full_disk(place: Place) -> str:
    """No byte is left for some seconds; where no disk can be mounted, no file may grow."""
    span = place.draw.uniform(0, place.pause)
    if not place.own_disk:
        limited = [one for some in place.processes().values() for one in some]
        for process in limited:
            with suppress(OSError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, -1))
        time.sleep(span)
        for process in limited:
            with suppress(OSError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        return f"file sizes limited for {span:.1f} s"
    filler = place.runs / "filler"
    free = shutil.disk_usage(place.runs).free
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(1 << 16))
        time.sleep(span)
    finally:
        filler.unlink(missing_ok=True)
    return f"{free >> 20} MiB filled for {span:.1f} s"


def slow_disk(place: Place) -> str | None:
    if place.library is None:
        return None
    wait = place.draw.choice([2_000, 20_000, 100_000])
    place.tell(slow=wait)
    time.sleep(place.draw.uniform(0, 2 * place.pause))
    place.tell(slow=0)
    return f"{wait / 1000:g} ms a change"


def clock(place: Place) -> str | None:
    if place.library is None:
        return None
    jump = place.draw.choice([-400 * DAY, -DAY, -3600, -5, 5, 3600, DAY, 400 * DAY])
    place.tell(clock=jump)
    return f"{jump} s"


Fault = Callable[[Place], str | None]
"""Strikes; says what it did, or None where there was nothing to strike."""
FAULTS: dict[str, Fault] = {
    "kill the run": kill("run"),
    "kill any process": kill(None),
    "stop and continue": stop,
    "flip a bit": on_a_file(flipped),
    "cut a file": on_a_file(cut),
    "remove a file": on_a_file(lost),
    "add a file": on_a_file(strange),
    "full disk": full_disk,
    "slow disk": slow_disk,
    "clock jumps": clock,
}
OF_ENGINES: dict[str, Fault] = {
    "kill the engine": kill("engine"),
    "kill the trainer": kill("trainer"),
    "kill a judge": kill("judges"),
    "kill Prefect's server": kill("server"),
}
"""Where there are processes beside the run."""
