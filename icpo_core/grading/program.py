"""What runs in a sandbox's child: a program, on its own or with somebody calling its functions.

Values go between processes as the text of Python literals, so that what a program returns is a
number, a text or a container of such, and no object whose `==` says yes to everything.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import json
import os
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper
from typing import Any

CHANNEL = 3
"""The descriptor of a child's socket: of the socket's calls only these are left."""
MODULE = "__main__"


def serve(job: dict[str, Any], channel: socket.socket) -> None:
    """Do a job: `stdin`: run `program`; `calls`: run it, then call what is asked for; `tests`: run
    `tests`, with functions `names` that are called elsewhere."""
    channel.detach()
    sys.setrecursionlimit(5000)
    {"stdin": _alone, "calls": _calls, "tests": _tests}[job["mode"]](job)


def _alone(job: dict[str, Any]) -> None:
    try:
        _execute(job["program"])
        threading._shutdown()  # type: ignore[attr-defined]  # a program's main may be a thread's
    except BaseException:  # noqa: BLE001  it may raise what it likes; what it wrote counts
        pass
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()


def _execute(source: str) -> dict[str, Any]:
    """Run a program as a script; its names."""
    sys.stdin = TextIOWrapper(BufferedReader(FileIO(0, closefd=False)), "utf-8")
    sys.stdout = TextIOWrapper(BufferedWriter(FileIO(1, "w", closefd=False)), "utf-8", "replace")
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout)
    sys.argv = ["answer.py"]
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    exec(compile(source, "answer.py", "exec"), module.__dict__)
    return module.__dict__


def _calls(job: dict[str, Any]) -> None:
    try:
        names = _execute(job["program"])
    except BaseException as error:  # noqa: BLE001  it may raise what it likes
        _say(_raised(error))
        return
    _say({"names": [name for name, value in names.items() if callable(value)]})
    for call in _lines():
        try:
            value = _function(names, call["name"])(*ast.literal_eval(call["arguments"]))
            _say({"value": repr(plain(value))})
        except BaseException as error:  # noqa: BLE001
            _say(_raised(error))


def _function(names: dict[str, Any], name: str) -> Any:
    """A function of the program, or a method of its class `Solution`."""
    if name in names or "Solution" not in names:
        return names[name]
    return getattr(names["Solution"](), name)


def _tests(job: dict[str, Any]) -> None:
    lines = _lines()

    def proxy(name: str) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            _say({"name": name, "arguments": repr(plain(arguments))})
            reply = next(lines, {"error": "RuntimeError", "said": "the program has ended"})
            if "value" in reply:
                return ast.literal_eval(reply["value"])
            kind = getattr(builtins, str(reply["error"]), None)
            wanted = isinstance(kind, type) and issubclass(kind, Exception)
            raised: type[Exception] = kind if wanted else RuntimeError  # type: ignore[assignment]
            raise raised(reply.get("said", ""))

        return called

    names: dict[str, Any] = {"__name__": "tests", **{name: proxy(name) for name in job["names"]}}
    passed, why = 0, ""
    for text in job["tests"]:
        try:
            exec(compile(text, "tests.py", "exec"), names)
            passed += 1
        except BaseException as error:  # noqa: BLE001  a failed assertion, or what a call raised
            why = why or f"{type(error).__name__}: {error}".rstrip(": ")
            if not job["all"]:
                break
    _say({"passed": passed, "why": why[:200]})


def plain(value: Any) -> Any:
    """A value as literals can say it; of a subclass the plain kind. Raises TypeError for others."""
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, dict):
        return {plain(key): plain(one) for key, one in dict.items(value)}
    if isinstance(value, list):
        return [plain(one) for one in list.__iter__(value)]
    if isinstance(value, tuple):
        return tuple(plain(one) for one in tuple.__iter__(value))
    if isinstance(value, set | frozenset):
        return {plain(one) for one in value}  # a frozenset has no literal
    for number in (int, float, str):
        if isinstance(value, number):
            return number(value)
    raise TypeError(f"returned an object of {type(value).__name__}, which is no plain value")


def _raised(error: BaseException) -> dict[str, str]:
    return {"error": type(error).__name__, "said": str(error)[:200]}


def _say(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(CHANNEL, data) :]


def _lines() -> Iterator[dict[str, Any]]:
    said = b""
    while True:
        line, end, said = said.partition(b"\n")
        if end:
            yield json.loads(line)
            continue
        more = os.read(CHANNEL, 1 << 16)
        if not more:
            return
        said = line + more
