"""A pool of judge processes with a hard limit on each item's wall-clock time and memory.

What the text decides is decided here, in microseconds and without starting a process; what takes
algebra goes to a judge. A judge past its limits is killed and replaced while the others go on, and
its item gets the status `timeout` or `error`, never a quiet `wrong`. No signal handler, alarm or
fork is used in the caller's process, so a pool may be used from any thread.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icpo_core.common.closing import Closing
from icpo_core.grading.grade import (
    Finding,
    GradingRules,
    Pair,
    Question,
    Verdict,
    VerdictStatus,
    verdict,
)
from icpo_core.grading.kept import Kept
from icpo_core.grading.verifiers import verifier as verifier_named

START_SECONDS = 120.0
"""How long the nursery may take to import sympy and math-verify (two seconds when warm)."""
WATCH_SECONDS = 0.025
"""How often the memory of a busy judge is looked at."""
REMEMBERED = 100_000
"""How many (gold, answer) pairs keep their finding from one call to the next."""
REMEMBERED_CHARS = 10_000
"""Longer pairs are not kept: a verifier that looks for the answer itself has whole responses."""
RETRY_SECONDS = 30.0
"""Longest wait before another try; the first is one second, and each is twice the one before."""
_CONTROL_BYTES = 1 << 16

Progress = Callable[[int, int], None]


@dataclass
class _Judge:
    """One judge process, and what it is at work on: a pair, or a batch of them."""

    pid: int
    channel: socket.socket
    idle: int  # bytes resident when it was forked
    pairs: tuple[Pair, ...] = ()
    started: float = 0.0
    received: bytearray = field(default_factory=bytearray)


class Judges(Closing):
    """A context manager: `workers` processes that judge under `rules`.

    `seconds`: wall-clock limit an item. `memory_mb`: MiB that an item may take on top of an idle
    judge. `verifier`: name of the one that judges (`icpo_core.grading.verifiers`), or one's own,
    with the `digest` of its source and the reward from which a response is `right_from`. `trusted`:
    it may use the network, write files and start programs. `retries`: how often a pair without a
    verdict is tried again. `kept`: findings of other times. `partial`: `code`
    gives the share of tests that are passed. Nothing is started before the first
    pair that the text does not decide. Raises RuntimeError where the judges cannot be started
    (math-verify missing), ValueError where it is for one's own source.
    """

    def __init__(
        self,
        workers: int,
        seconds: float,
        memory_mb: int,
        rules: GradingRules,
        verifier: str = "math",
        *,
        digest: str | None = None,
        right_from: float = 1.0,
        trusted: bool = False,
        retries: int = 0,
        kept: Kept | None = None,
        partial: bool = False,
    ) -> None:
        if workers < 1 or seconds <= 0 or memory_mb < 1:
            raise ValueError("workers, seconds and memory_mb must be positive")
        self.workers = workers
        self.seconds = seconds
        self.memory_mb = memory_mb
        self.rules = rules
        self.verifier = verifier
        self.digest = digest
        self.right_from = right_from
        self.trusted = trusted
        self.retries = retries
        self.kept = kept
        self.partial = partial
        self._prejudge = verifier_named(verifier, digest, right_from).prejudge
        self._batch = 1
        self._known: OrderedDict[Pair, Finding] = OrderedDict()
        self._alone: set[Pair] = set()  # a batch with them failed
        self._lock = threading.Lock()
        self._interrupted = threading.Event()
        self._judges: list[_Judge] = []
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def judge(
        self, questions: Sequence[Question], on_progress: Progress | None = None
    ) -> list[Verdict]:
        """Return the verdict on each question, in order. Each distinct pair is judged once.

        `on_progress`: told how many pairs of how many are judged, as they are.
        """
        with self._lock:
            read = [self._prejudge(question, self.rules) for question in questions]
            undecided = dict.fromkeys(found for _, found in read if isinstance(found, Pair))
            fresh = [pair for pair in undecided if pair not in self._known]
            if self.kept is not None and fresh:
                self._known |= self.kept.find(fresh)
                fresh = [pair for pair in fresh if pair not in self._known]
            judged = self._compare(fresh, on_progress) if fresh else {}
            for attempt in range(self.retries):
                failed = [pair for pair, (finding, _) in judged.items() if _unknown(finding)]
                if not failed or self._interrupted.wait(min(2.0**attempt, RETRY_SECONDS)):
                    break
                judged |= self._compare(failed)
            verdicts = []
            for extracted, found in read:
                seconds = 0.0
                if isinstance(found, Pair):
                    if found in judged:
                        found, seconds = judged[found]
                    else:
                        self._known.move_to_end(found)
                        found = self._known[found]
                verdicts.append(verdict(extracted, found, seconds))
            if self.kept is not None:
                settled = {
                    p: finding for p, (finding, _) in judged.items() if not _unknown(finding)
                }
                self.kept.put(settled)
            for pair, (finding, _) in judged.items():
                # What was not known may be known on another try, with less load or more memory.
                if not _unknown(finding) and pair.length <= REMEMBERED_CHARS:
                    self._known[pair] = finding
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return verdicts

    def interrupt(self) -> None:
        """End who is judging with RuntimeError; until `close`, nothing is judged."""
        self._interrupted.set()

    def close(self) -> None:
        """End all processes. The pool starts them again if it is used again."""
        with self._lock:
            self._interrupted.clear()
            for judge in self._judges:
                judge.channel.close()
            self._judges.clear()
            if self._control is not None:
                self._control.close()  # the nursery ends its judges and itself
                self._control = None
            if self._nursery is not None:
                try:
                    self._nursery.wait(5)
                except subprocess.TimeoutExpired:
                    self._nursery.kill()
                    self._nursery.wait()
                self._nursery = None

    def _compare(
        self, pairs: list[Pair], on_progress: Progress | None = None
    ) -> dict[Pair, tuple[Finding, float]]:
        """Return the finding on each pair and the seconds it took."""
        findings: dict[Pair, tuple[Finding, float]] = {}
        self._alone.clear()
        waiting = deque(pairs)
        try:
            with selectors.DefaultSelector() as selector:
                for judge in self._judges:
                    selector.register(judge.channel, selectors.EVENT_READ, judge)
                while len(findings) < len(pairs):
                    if self._interrupted.is_set():
                        raise RuntimeError("the judges were ended before they were through")
                    self._hand_out(waiting, len(pairs) - len(findings), selector)
                    known = len(findings)
                    for key, _ in selector.select(WATCH_SECONDS):
                        if not self._receive(key.data, findings, waiting):
                            self._end(key.data, selector)
                    for judge in [judge for judge in self._judges if judge.pairs]:
                        broken = self._over_limit(judge)
                        if broken is not None:
                            self._fail(judge, broken, findings, waiting)
                            self._end(judge, selector)
                    if on_progress is not None and len(findings) > known:
                        on_progress(len(findings), len(pairs))
        finally:
            # Interrupted: what a judge is still at work on is not what it is asked for next.
            for judge in [judge for judge in self._judges if judge.pairs]:
                self._end(judge)
        return findings

    def _hand_out(
        self, waiting: deque[Pair], missing: int, selector: selectors.BaseSelector
    ) -> None:
        """Give every judge work, with as many judges as there is work for."""
        while len(self._judges) < min(self.workers, missing):
            judge = self._fork()
            self._judges.append(judge)
            selector.register(judge.channel, selectors.EVENT_READ, judge)
        for judge in [judge for judge in self._judges if not judge.pairs]:
            pairs = self._next(waiting)
            if pairs and not self._put(judge, pairs):
                waiting.extendleft(reversed(pairs))
                self._end(judge, selector)  # it died idle: another takes the pairs

    def _next(self, waiting: deque[Pair]) -> tuple[Pair, ...]:
        """What a judge takes next: a fair share of what waits, at most a batch."""
        most = min(self._batch, -(-len(waiting) // self.workers))
        pairs = [waiting.popleft() for _ in range(min(most, 1))]
        while len(pairs) < most and not {pairs[0], waiting[0]} & self._alone:
            pairs.append(waiting.popleft())
        return tuple(pairs)

    def _put(self, judge: _Judge, pairs: tuple[Pair, ...]) -> bool:
        """Hand the pairs to the idle judge; False if the judge is gone."""
        request = [[pair.gold, pair.answers, pair.row] for pair in pairs]
        try:
            judge.channel.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            return False
        judge.pairs, judge.started = pairs, time.perf_counter()
        return True

    def _receive(
        self, judge: _Judge, findings: dict[Pair, tuple[Finding, float]], waiting: deque[Pair]
    ) -> bool:
        """Take in what the judge says; False if it must be replaced."""
        try:
            data = judge.channel.recv(_CONTROL_BYTES)
        except OSError:
            data = b""
        if not data:
            if judge.pairs:
                died = Finding(VerdictStatus.error, "the judge died")
                self._fail(judge, died, findings, waiting)
            return False
        judge.received += data
        if not judge.received.endswith(b"\n"):
            return True
        reply = json.loads(judge.received)
        judge.received.clear()
        if len(reply["findings"]) < len(judge.pairs):
            self._fail(judge, _finding(reply["findings"][0]), findings, waiting)
            return not reply["retire"]
        seconds = (time.perf_counter() - judge.started) / len(judge.pairs)
        for pair, found in zip(judge.pairs, reply["findings"], strict=True):
            findings[pair] = _finding(found), seconds
        judge.pairs = ()
        return not reply["retire"]

    def _fail(
        self,
        judge: _Judge,
        finding: Finding,
        findings: dict[Pair, tuple[Finding, float]],
        waiting: deque[Pair],
    ) -> None:
        """Of one pair this is the finding; of several each is tried alone, to find the one."""
        assert judge.pairs  # an idle judge says nothing
        if len(judge.pairs) > 1:
            self._alone.update(judge.pairs)
            waiting.extend(judge.pairs)
        else:
            findings[judge.pairs[0]] = finding, time.perf_counter() - judge.started
        judge.pairs = ()

    def _over_limit(self, judge: _Judge) -> Finding | None:
        elapsed = time.perf_counter() - judge.started
        if elapsed > self.seconds * len(judge.pairs):
            return Finding(VerdictStatus.timeout, f"over {self.seconds:g} s")
        if elapsed > WATCH_SECONDS and _resident(judge.pid) > judge.idle + (self.memory_mb << 20):
            return Finding(VerdictStatus.error, f"over {self.memory_mb} MiB")
        return None

    def _fork(self) -> _Judge:
        ours, theirs = socket.socketpair()
        with theirs:
            born = self._request({"do": "fork"}, theirs) or self._request({"do": "fork"}, theirs)
        if not born:
            ours.close()
            raise RuntimeError("the nursery of the judges dies when asked for a judge")
        ours.settimeout(self.seconds)
        return _Judge(born["pid"], ours, born["resident"])

    def _end(self, judge: _Judge, selector: selectors.BaseSelector | None = None) -> None:
        self._judges.remove(judge)
        if selector is not None:
            selector.unregister(judge.channel)
        judge.channel.close()
        if self._control is not None:  # else the judge died with its nursery
            self._request({"do": "end", "pid": judge.pid})

    def _request(self, message: dict[str, Any], attached: socket.socket | None = None) -> Any:
        """Ask the nursery, starting it first if there is none. An empty answer: it has died."""
        control = self._control or self._start()
        descriptors = [attached.fileno()] if attached else []
        try:
            socket.send_fds(control, [json.dumps(message).encode()], descriptors)
            answer = control.recv(_CONTROL_BYTES)
        except OSError:
            answer = b""
        if answer:
            return json.loads(answer)
        control.close()
        self._control = None
        return {}

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        settings = {
            "memory_mb": self.memory_mb,
            "rules": self.rules.model_dump(),
            "verifier": self.verifier,
            "digest": self.digest,
            "right_from": self.right_from,
            "trusted": self.trusted,
            "seconds": self.seconds,
            "partial": self.partial,
        }
        if self._nursery is not None:
            self._nursery.wait()  # it is dead, and its judges with it
        with theirs:
            self._nursery = subprocess.Popen(
                [sys.executable, "-P", "-m", "icpo_core.grading.process", str(theirs.fileno()),
                 json.dumps(settings)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # One hash seed, so that sympy orders its terms the same way in every judge.
                env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
            )  # fmt: skip
        ours.settimeout(START_SECONDS)
        try:
            ready = ours.recv(_CONTROL_BYTES)
        except TimeoutError:  # an import of one's own hangs
            self._nursery.kill()
            ready = b""
        state: dict[str, Any] = (
            json.loads(ready) if ready else {"error": f"exit status {self._nursery.wait()}"}
        )
        if "error" in state:
            ours.close()
            self._nursery.wait()
            self._nursery = None
            if "mistake" in state:
                raise ValueError(f"verify: {state['error']}")
            raise RuntimeError(f"the judges cannot be started: {state['error']}")
        self._batch = state["batch"]
        self._control = ours
        return ours


def _unknown(finding: Finding) -> bool:
    return finding.status in (VerdictStatus.timeout, VerdictStatus.error)


def _finding(found: list[Any]) -> Finding:
    """A finding as a judge sends it."""
    return Finding(VerdictStatus(found[0]), *found[1:])


def _resident(pid: int) -> int:
    """Return the resident size of a process in bytes; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0
