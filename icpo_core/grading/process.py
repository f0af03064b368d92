"""The processes behind `grading.pool`: a nursery that has imported all once, and its judges.

The nursery is a fresh interpreter with one thread. It imports what the verifier needs, then forks a
judge whenever it is asked to, which takes milliseconds where a start takes seconds, and is safe
where forking the run's own (multi-threaded) process is not. It ends its judges on request and when
the run's process is gone.

Control channel (packets of JSON): the nursery says ``{"ready": true}`` or ``{"error": …}`` once;
``{"do": "fork"}`` with a socket attached is answered by ``{"pid": n}``, ``{"do": "end", "pid": n}``
kills and reaps, and is answered by ``{"exit": n}``, negative for a signal, null for a process that
is none of its own. A judge reads lists of pairs and writes findings on its socket, a line of JSON
each: a finding a pair, or one that is an error for all of them.
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any, cast

from icpo_core.common import plugins
from icpo_core.grading.confinement import confine
from icpo_core.grading.grade import Finding, GradingRules, Pair, VerdictStatus
from icpo_core.grading.own import Own
from icpo_core.grading.verifiers import Verifier, verifier
from icpo_core.grading.verifiers.code import Code

PR_SET_PDEATHSIG = 1
PACKET_BYTES = 1 << 16
WATCH_SECONDS = 1.0
"""The nursery looks this often whether its parent still lives, should the channel stay open."""

FILES = 256
"""Files that a judge may have open."""

# What an answer must never make a judge do. Reading files is left: imports read files.
_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill",
    "os.putenv", "os.unsetenv", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod",
    "os.chown", "os.link", "os.symlink", "os.truncate", "os.utime", "os.killpg", "pty.spawn",
    "subprocess.Popen", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo",
    "shutil.", "ctypes.dlopen", "webbrowser.open",
)  # fmt: skip


def main(descriptor: int, settings: dict[str, Any]) -> None:
    """Run the nursery on the control socket `descriptor` until its other end is gone."""
    control = socket.socket(fileno=descriptor)
    # The terminal's Ctrl-C is for the run to handle; the nursery ends with the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    if not settings["trusted"]:
        confine(processes=True)  # its judges; before one's own source is executed
    try:
        judging = verifier(settings["verifier"], settings["digest"], settings["right_from"])
        judging.warm_up()
    except ImportError as error:
        _send(control, {"error": f"{type(error).__name__}: {error}"})
        return
    except ValueError as error:
        _send(control, {"error": str(error), "mistake": True})
        return
    # Frozen objects are left alone by the collector, so their pages stay shared with the judges.
    gc.collect()
    gc.freeze()
    _send(control, {"ready": True, "batch": getattr(judging, "batch", 1)})
    children: set[int] = set()
    while True:
        readable, _, _ = select.select([control], [], [], WATCH_SECONDS)
        if os.getppid() != parent:
            break
        if not readable:
            continue
        packet, descriptors, _, _ = socket.recv_fds(control, PACKET_BYTES, 1)
        if not packet:
            break
        request = json.loads(packet)
        if request["do"] == "fork":
            nursery = os.getpid()
            pid = os.fork()
            if pid == 0:
                control.close()
                _judge(socket.socket(fileno=descriptors[0]), nursery, settings, judging)
            os.close(descriptors[0])
            children.add(pid)
            _send(control, {"pid": pid, "resident": _memory_bytes()[1]})
        else:  # a judge of an earlier nursery died with it
            known = request["pid"] in children
            children.discard(request["pid"])
            _send(control, {"exit": _end(request["pid"]) if known else None})
    for pid in children:
        _end(pid)


def _judge(
    channel: socket.socket, nursery: int, settings: dict[str, Any], judging: Verifier
) -> None:
    """Judge pairs until the channel closes. Never returns."""
    rules = GradingRules(**settings["rules"])
    allowed = settings["memory_mb"] << 20
    over = f"over {settings['memory_mb']} MiB"
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:  # it died before the line above
        os._exit(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    pages, resident = _memory_bytes()
    # The pool watches the resident size; this stops what would outgrow it between two looks.
    resource.setrlimit(resource.RLIMIT_AS, (pages + 2 * allowed,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if isinstance(judging, Code):
        judging.begin(settings["seconds"], settings["memory_mb"], settings["partial"])
    elif not settings["trusted"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
        confine()
        sys.addaudithook(_refuse)
    with channel.makefile("rwb") as stream:
        for line in stream:
            pairs = [Pair(gold, tuple(answers), row) for gold, answers, row in json.loads(line)]
            try:
                findings = _compared(judging, pairs, rules)
            except MemoryError:
                findings = [Finding(VerdictStatus.error, over)]
            except Exception as error:  # noqa: BLE001
                # Third-party parsing and algebra on hostile text may raise anything at all, and so
                # may one's own verifier; it is reported as what it is, and costs this item only.
                findings = [Finding(VerdictStatus.error, _said(judging, error)[:200])]
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident
            # math-verify catches MemoryError inside and calls the pair unequal.
            if grown > allowed and any(f.status is not VerdictStatus.correct for f in findings):
                findings = [Finding(VerdictStatus.error, over)]
            retire = findings[0].detail == over or grown > allowed // 2
            reply = {"findings": [one.wire() for one in findings], "retire": retire}
            stream.write(json.dumps(reply).encode() + b"\n")
            stream.flush()
            if retire:
                break
    os._exit(0)


def _compared(judging: Verifier, pairs: list[Pair], rules: GradingRules) -> list[Finding]:
    if len(pairs) > 1:
        return cast(Own, judging).compare_all(pairs, rules)
    return [judging.compare(pairs[0], rules)]


def _said(judging: Verifier, error: Exception) -> str:
    if isinstance(judging, Own):
        return plugins.why(error, plugins.source_of(judging.spec))
    return f"{type(error).__name__}: {error}"


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        flags = arguments[2]
        forbidden = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if flags else False
    else:
        forbidden = event.startswith(_FORBIDDEN)
    if forbidden:
        raise PermissionError(f"a judge may not {event}")


def _memory_bytes() -> tuple[int, int]:
    """Return the address space and the resident size of this process."""
    with open("/proc/self/statm") as file:
        size, resident = file.read().split()[:2]
    page = os.sysconf("SC_PAGESIZE")
    return int(size) * page, int(resident) * page


def _end(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)  # not yet reaped, so the number is still this child's
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    try:
        control.send(json.dumps(message).encode())
    except BrokenPipeError:
        sys.exit(0)  # the run is gone


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
