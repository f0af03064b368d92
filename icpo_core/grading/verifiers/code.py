"""`code`: the Python program of a response, run against the tests of column `extra`.

The program is the last fenced block. It runs in a sandbox (`icpo_core.grading.sandbox`) that does
not hold the tests: what it prints is compared here, and its functions are called from another
process, where assertions run. `extra` has one of

- `inputs` and `outputs`, lists of texts: standard input, and what is to be printed; with `fn_name`,
  lists of arguments and what is to be returned (as APPS; also below `input_output`);
- `test` and `entry_point`: source with `check(candidate)` (as HumanEval; `prompt` is put before a
  response that does not define the function);
- `test_list`: assertions, after `test_setup_code` if there is any (as MBPP).
"""

from __future__ import annotations

import ast
import json
import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

from icpo_core.grading import sandbox
from icpo_core.grading.extraction import after_thinking
from icpo_core.grading.grade import Finding, GradingRules, Pair, Question, VerdictStatus
from icpo_core.grading.program import serve
from icpo_core.grading.sandbox import OUTPUT_BYTES, Child, Sandbox
from icpo_core.grading.verifiers.base import Verifier

_BLOCK = re.compile(r"^[ \t]*```(?:python3?|py)?[ \t]*\n(.*?)^[ \t]*```", re.S | re.M | re.I)
SHARE = 0.8
"""Of the time that a verdict may take: what a program has for all tests. A judge that is ended
knows nothing, a program that is ended is wrong."""
CLOSE = 1e-6
"""A printed decimal counts when it is so near."""


@dataclass(frozen=True)
class Tests:
    """What a program is held against. `calls`: it is called, and not fed."""

    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    name: str | None = None
    sources: list[str] = field(default_factory=list)


class Code(Verifier):
    programs = True
    """Its judges start processes."""

    def __init__(self) -> None:
        self._sandbox: Sandbox | None = None
        self._seconds, self.partial = 1.0, False

    def prejudge(
        self, question: Question, rules: GradingRules
    ) -> tuple[str | None, Finding | Pair]:
        if question.truncated and not rules.accept_truncated:
            return None, Finding(VerdictStatus.truncated, "the response hit its token limit")
        blocks = _BLOCK.findall(after_thinking(question.response, rules.thinking_end_tag))
        if not blocks:
            return None, Finding(VerdictStatus.no_answer, "no fenced block of code")
        extra = question.row.get("extra")
        return blocks[-1], Pair("", (blocks[-1],), json.dumps(extra))

    def warm_up(self) -> None:
        """Imports what programs may import."""
        sandbox.preload()

    def begin(self, seconds: float, memory_mb: int, partial: bool) -> None:
        """In a judge, before it sees any question. Raises ValueError where there is no sandbox."""
        self._seconds, self.partial = seconds * SHARE, partial
        self._sandbox = Sandbox(serve, memory_mb, self._seconds)
        sandbox.hide()

    def compare(self, pair: Pair, rules: GradingRules) -> Finding:
        assert self._sandbox is not None, "begin() comes first"
        tests, program = tests_of(json.loads(pair.row)), pair.answers[0]
        program = _with_prompt(program, json.loads(pair.row))
        until = time.monotonic() + self._seconds
        count = len(tests.sources) or len(tests.inputs)
        if tests.sources:
            passed, why = self._asserted(program, tests, until)
        elif tests.name:
            passed, why = self._called(program, tests, until)
        else:
            passed, why = self._fed(program, tests, until)
        right = passed == count
        status = VerdictStatus.correct if right else VerdictStatus.wrong
        detail = f"{passed} of {count} tests" + (f": {why}" if why and not right else "")
        return Finding(status, detail, None, passed / count if self.partial else None)

    def _fed(self, program: str, tests: Tests, until: float) -> tuple[int, str]:
        """How many outputs are right, and what is wrong with the first that is not."""
        passed, why = 0, ""
        for given, wanted in zip(tests.inputs, tests.outputs, strict=True):
            said, late = self._output(program, _text(given), until)
            if not late and same_output(said, _text(wanted)):
                passed += 1
                continue
            why = why or late or "another output"
            if not self.partial or time.monotonic() > until:
                break
        return passed, why

    def _output(self, program: str, given: str, until: float) -> tuple[str, str]:
        """What a program prints, and why it was ended if it was."""
        child = self._child()
        said = bytearray()
        try:
            child.send({"mode": "stdin", "program": program, "stdin": given, "output": True})
            while more := child.read(until):
                said += more
                if len(said) > OUTPUT_BYTES:
                    return "", f"prints more than {OUTPUT_BYTES >> 20} MiB"
        except TimeoutError:
            return "", f"over {self._seconds:g} s"
        except OSError:
            return "", "ended"
        finally:
            child.end()
        return said.decode("utf-8", "replace"), ""

    def _called(self, program: str, tests: Tests, until: float) -> tuple[int, str]:
        passed, why = 0, ""
        solution = self._child()
        try:
            _ready(solution, program, until)
            for given, wanted in zip(tests.inputs, tests.outputs, strict=True):
                call = {"name": tests.name, "arguments": repr(tuple(given))}
                reply = _asked(solution, call, until)
                if "value" in reply and _same_value(reply["value"], wanted):
                    passed += 1
                    continue
                why = why or str(reply.get("error", "another value"))
                if not self.partial:
                    break
        except TimeoutError:
            why = why or f"over {self._seconds:g} s"
        except _ProgramError as error:
            why = why or str(error)
        finally:
            solution.end()
        return passed, why

    def _asserted(self, program: str, tests: Tests, until: float) -> tuple[int, str]:
        solution, tester = self._child(), self._child()
        try:
            names = _ready(solution, program, until)
            job = {"mode": "tests", "tests": tests.sources, "names": names, "all": self.partial}
            tester.send(job)
            while True:
                line = tester.receive(until)
                if not line:
                    raise ValueError("the tests in column extra ended their process")
                said = json.loads(line)
                if "passed" in said:
                    return int(said["passed"]), str(said["why"])
                try:
                    reply = _asked(solution, said, until)
                except _ProgramError as error:
                    reply = {"error": "RuntimeError", "said": str(error)}
                tester.send(reply)
        except TimeoutError:
            return 0, f"over {self._seconds:g} s"
        except _ProgramError as error:
            return 0, str(error)
        finally:
            solution.end()
            tester.end()

    def _child(self) -> Child:
        assert self._sandbox is not None
        return self._sandbox.child()


class _ProgramError(Exception):
    """What is wrong with the program, not with the tests."""


def _ready(solution: Child, program: str, until: float) -> list[str]:
    """Start a program whose functions are to be called; their names."""
    solution.send({"mode": "calls", "program": program})
    said = _line(solution, until)
    names = said.get("names")
    if not isinstance(names, list):
        raise _ProgramError(f"{said.get('error')}: {said.get('said')}"[:200])
    return [name for name in names if isinstance(name, str) and name.isidentifier()]


def _asked(solution: Child, call: dict[str, Any], until: float) -> dict[str, Any]:
    try:
        solution.send(call)
    except OSError:
        raise _ProgramError("the program has ended") from None
    said = _line(solution, until)
    return {key: str(said[key]) for key in ("value", "error", "said") if key in said}


def _line(solution: Child, until: float) -> dict[str, Any]:
    try:
        said = json.loads(solution.receive(until) or b"null")
    except (ValueError, RecursionError) as error:
        raise _ProgramError(f"the program does not answer: {error}") from None
    if not isinstance(said, dict):
        raise _ProgramError("the program has ended")
    return said


def tests_of(extra: Any) -> Tests:
    """What column `extra` says. Raises ValueError, naming what it may have."""
    if isinstance(extra, dict) and "input_output" in extra:
        inner = extra["input_output"]
        extra = json.loads(inner) if isinstance(inner, str) else inner
    if not isinstance(extra, dict):
        extra = {}
    if "test" in extra and "entry_point" in extra:
        return Tests(sources=[f"{extra['test']}\n\ncheck({extra['entry_point']})\n"])
    if extra.get("test_list"):
        setup = extra.get("test_setup_code") or ""
        return Tests(sources=[f"{setup}\n{one}\n" for one in extra["test_list"]])
    inputs, outputs = extra.get("inputs"), extra.get("outputs")
    if isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs) > 0:
        return Tests(inputs, outputs, extra.get("fn_name"))
    raise ValueError(
        "column extra has no tests: give inputs and outputs (as many), test and entry_point, or "
        "test_list"
    )


def same_output(said: str, wanted: str) -> bool:
    """Line for line, without spaces at the ends; decimals to 1e-6."""
    ours, theirs = (
        [line.rstrip() for line in text.replace("\r\n", "\n").rstrip().split("\n")]
        for text in (said, wanted)
    )
    return len(ours) == len(theirs) and all(
        a == b or _same_words(a.split(), b.split()) for a, b in zip(ours, theirs, strict=True)
    )


def _same_words(ours: list[str], theirs: list[str]) -> bool:
    return len(ours) == len(theirs) and all(
        a == b or ("." in b and _near(a, b)) for a, b in zip(ours, theirs, strict=True)
    )


def _near(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=CLOSE, abs_tol=CLOSE)
    except ValueError:
        return False


def _same_value(text: str, wanted: Any) -> bool:
    try:
        value = _listed(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    wanted = _listed(wanted)
    # APPS puts a returned value into a list of one.
    return bool(value == wanted or (isinstance(wanted, list) and wanted == [value]))


def _listed(value: Any) -> Any:
    """JSON has no tuples."""
    if isinstance(value, list | tuple):
        return [_listed(one) for one in value]
    return value


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _with_prompt(program: str, extra: Any) -> str:
    """With the beginning that the problem gives, where the answer goes on from there."""
    prompt, name = (extra.get(key) for key in ("prompt", "entry_point"))
    if prompt and name and not re.search(rf"^\s*(?:async )?def {re.escape(name)}\b", program, re.M):
        return f"{prompt}\n{program}"
    return program


code = Code()
