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
            near = _near(found[1], f"{found[2]} --help --version")
            return f"{found[1]}: there is no such thing{near or more}"
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            return f"{found[1]}: {self._unknown(found[1]) or f'no such option{more}'}"
        return f"{message[:1].lower()}{message[1:]}{more}"

    def _unknown(self, word: str) -> str:
        """What is wrong with a word that this command does not know; empty where nobody can say."""
        options = self._option_strings()
        if not word.startswith("-"):
            return f"one word too many; `{self.prog} --help` shows what it takes"
        if word in ("--resume", "--continue"):
            return "no such option; the same command again goes on with a run"
        if word in ("--dry-run", "--dryrun", "-n") and "-o" in options:
            return (
                "no such option; `icpo plan RUN` says what a run would do, `icpo doctor` if it can"
            )
        if word in ("-c", "-f", "--config", "--file") and "-o" in options:
            return f"no such option; the file stands by itself, as {self.prog} run.toml"
        if "-o" in options and (key := _key(word.lstrip("-").partition("=")[0])):
            return f"no such option; set the key by -o {key}=VALUE"
        near = _near(word, " ".join(options))
        return f"no such option{near}" if near else ""

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


def _key(word: str) -> str:
    """The configuration's key that is called so, with its section."""
    from icpo_core.config.schema import schema

    found = schema()
    for section, about in found["properties"].items():
        part = found["$defs"].get(about.get("$ref", "").rpartition("/")[2], {})
        if word.replace("-", "_") in part.get("properties", {}):
            return f"{section}.{word.replace('-', '_')}"
    return ""


def _near(word: str, known: str) -> str:
    near = difflib.get_close_matches(word.lower(), re.findall(r"[\w-]+", known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
