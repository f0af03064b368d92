"""A command line's words: what is wrong with them is one line that names the fix."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """As argparse's, and its errors are one line."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {self._said(message)}\n")
        sys.exit(2)

    def _said(self, message: str) -> str:
        more = f"; `{self.prog} --help` lists all"
        if found := re.match(
            r"argument [^:]+: invalid choice: '(.*)' \(choose from (.*)\)", message
        ):
            return f"{found[1]}: there is no such thing{_near(found[1], found[2]) or more}"
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            known = " ".join(self._option_strings())
            return f"{found[1]}: no such option{_near(found[1], known) or more}"
        return f"{message[:1].lower()}{message[1:]}{more}"

    def _option_strings(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Refuses what it does not know itself, so that the command's own options are suggested."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def port(text: str) -> int:
    """A TCP port, for `type=`."""
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def _near(word: str, known: str) -> str:
    near = difflib.get_close_matches(word, re.findall(r"[\w-]+", known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
