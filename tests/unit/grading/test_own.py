"""A verifier of one's own, in real judge processes: what it may return, and what it may do."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from places import DEMO, ROOT

from icpo_core.common import plugins
from icpo_core.config import load, plugin_sources
from icpo_core.grading.grade import GradingRules, Question, Verdict
from icpo_core.grading.pool import Judges
from icpo_core.method.verdicts import judging

MINE = """
import os, socket, sys, time
from icpo_core.grading.grade import Verdict, VerdictStatus

def by_word(response, answer, row):
    return {
        "half": 0.5, "yes": True, "none": None, "right": 1, "text": "0.5", "nan": float("nan"),
        "parts": {"a": 0.25, "b": 0.5, "c": None}, "silent": {"a": None}, "bad": {"on_policy": 1.0},
        "row": float(row["extra"]["worth"]) if "extra" in row else -1.0,
        "answer": float(answer == "4"), "cut": float(row["truncated"]),
    }.get(response, 0.0) if response not in DO else DO[response]()

DO = {
    "hang": lambda: time.sleep(60), "raise": lambda: 1 / 0, "exit": lambda: sys.exit(0),
    "die": lambda: os._exit(0), "eat": lambda: len(bytearray(1 << 31)),
    "print": lambda: print("noise" * 10000) or 0.5,
    "write": lambda: open(__file__ + ".out", "w") and 1.0,
    "run": lambda: os.system("true") + 1.0,
    "connect": lambda: socket.create_connection(("127.0.0.1", 1)) and 1.0,
}

class Batch:
    batch = 4

    def judge(self, questions):
        if any(one.response == "hang" for one in questions):
            time.sleep(60)
        if any(one.response == "short" for one in questions):
            return [1.0] * (len(questions) + 1)
        size = float(len(questions))
        return [Verdict(VerdictStatus.correct, one.gold, size, 0.0, "mine") for one in questions]

class Mute:
    pass
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(MINE)
    return path


@pytest.fixture(scope="module")
def judge(mine: Path) -> Iterator[Callable[..., list[Verdict]]]:
    with Judges(2, 1.0, 512, GradingRules(), f"{mine}:by_word") as judges:
        yield lambda *texts: judges.judge([Question("4", text) for text in texts])


def test_what_a_function_may_return(judge: Callable[..., list[Verdict]]) -> None:
    found = dict(zip(words := ("half", "yes", "none", "right", "parts", "silent", "answer", "cut"),
                     judge(*words), strict=True))  # fmt: skip
    rewards = {word: (str(one.status), one.reward) for word, one in found.items()}
    assert rewards == {
        "half": ("wrong", 0.5), "yes": ("correct", 1.0), "none": ("abstained", 0.0),
        "right": ("correct", 1.0), "parts": ("wrong", 0.75), "silent": ("abstained", 0.0),
        "answer": ("correct", 1.0), "cut": ("wrong", 0.0),
    }  # fmt: skip
    assert found["parts"].parts == {"a": 0.25, "b": 0.5, "c": None}
    assert found["half"].detail == "by_word"


def test_what_it_may_not_return_or_do_is_an_error_of_that_item(
    judge: Callable[..., list[Verdict]], mine: Path
) -> None:
    wanted = {
        "text": "by_word returned '0.5': return a number", "nan": "return a finite number",
        "bad": "cannot be named 'on_policy'", "raise": "line 14: ZeroDivisionError",
        "exit": "the judge died", "die": "the judge died", "eat": "over 512 MiB",
        "write": "a judge may not open", "run": "a judge may not os.system",
        "connect": "a judge may not socket.",
    }  # fmt: skip
    for word, one in zip(wanted, judge(*wanted), strict=True):
        assert (one.status, one.reward) == ("error", 0.0), word
        assert wanted[word] in one.detail, (word, one.detail)
    assert not list(mine.parent.glob("*.out"))


def test_one_that_hangs_costs_its_own_item(judge: Callable[..., list[Verdict]]) -> None:
    texts = ["half"] * 16
    texts[6] = "hang"
    texts[7] = "print"
    found = judge(*texts)
    assert [str(one.status) for one in found].count("timeout") == 1
    assert (found[6].status, found[6].detail) == ("timeout", "over 1 s")
    assert [one.reward for one in found if one is not found[6]] == [0.5] * 15


def test_a_class_has_batches_and_a_batch_that_fails_is_taken_apart(mine: Path) -> None:
    seen: list[tuple[int, int]] = []
    with Judges(1, 0.5, 512, GradingRules(), f"{mine}:Batch") as judges:
        questions = [Question("4", f"r{n}") for n in range(8)]
        found = judges.judge(questions, lambda done, all_: seen.append((done, all_)))
        assert [(one.reward, one.extracted, one.detail) for one in found] == [
            (4.0, "4", "mine")
        ] * 8
        assert seen == [(4, 8), (8, 8)]
        questions = [Question("4", text) for text in ("a", "b", "hang", "short")]
        found = judges.judge(questions)
    assert [str(one.status) for one in found] == ["correct", "correct", "timeout", "error"]
    assert found[0].reward == 1.0
    assert "Batch returned 2 for 1 questions" in found[3].detail


@pytest.mark.parametrize(
    ("name", "words"),
    [("none", r"has no none; it defines"), ("Mute", r"the class has no judge\(questions\)")],
)
def test_a_mistake_in_the_source_is_one_line(mine: Path, name: str, words: str) -> None:
    with (
        Judges(1, 1.0, 512, GradingRules(), f"{mine}:{name}") as judges,
        pytest.raises(ValueError, match=words),
    ):
        judges.judge([Question("4", "x")])


def test_an_edited_source_is_not_what_was_asked_for(mine: Path) -> None:
    spec = f"{mine}:by_word"
    with (
        Judges(1, 1.0, 512, GradingRules(), spec, digest="0" * 64) as judges,
        pytest.raises(ValueError, match="was edited since"),
    ):
        judges.judge([Question("4", "half")])
    with Judges(1, 1.0, 512, GradingRules(), spec, digest=plugins.source_digest(spec)) as judges:
        assert judges.judge([Question("4", "half")])[0].reward == 0.5


def configured(*rewards: str) -> Any:
    return load(DEMO, [f"verify.rewards=[{', '.join(rewards)}]"])


def test_several_rewards_are_added_by_weight(mine: Path) -> None:
    config = configured(
        '{name="answer", verifier="math"}',
        f'{{name="word", verifier="{mine}:by_word", weight=0.5, seconds=30}}',
    )
    assert plugin_sources(config, "verify").keys() == {"verify.rewards.word"}
    texts = [r"\boxed{4}", "parts", "none", "die"]
    with judging(config.verify, plugin_sources(config, "verify")) as judges:
        found = judges.judge([Question("4", text) for text in texts])
    assert [(str(one.status), one.reward) for one in found] == [
        ("correct", 1.0), ("no_answer", 0.375), ("no_answer", 0.0), ("error", 0.0),
    ]  # fmt: skip
    assert found[1].parts == {
        "answer": 0.0, "word": 0.75, "word/a": 0.25, "word/b": 0.5, "word/c": None,
    }  # fmt: skip
    assert found[2].parts == {"answer": 0.0, "word": None}
    assert found[3].detail == "word: the judge died"


def test_who_does_not_abstain_first_says_what_is_right(mine: Path) -> None:
    config = configured(
        f'{{name="word", verifier="{mine}:by_word"}}', '{name="answer", verifier="math"}'
    )
    with judging(config.verify, plugin_sources(config, "verify")) as judges:
        found = judges.judge([Question("4", text) for text in ("none", "half", "right")])
    assert [(str(one.status), one.reward) for one in found] == [
        ("no_answer", 0.0), ("wrong", 0.5), ("correct", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (['verify.rewards=[{name="a"}, {name="a"}]'], "every name may stand once"),
        (['verify.rewards=[{name="on_policy"}]'], "none is expert, on_policy, trace"),
        (['verify.rewards=[{name="a"}]', "verify.verifier=choice"], "instead of verify.verifier"),
        (['verify.rewards=[{name="a", wieght=2.0}]'], "unknown key; did you mean weight"),
        (['verify.rewards=[{name="a", verifier="maths"}]'], "did you mean math"),
    ],
)
def test_mistakes_in_the_configuration(changes: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(DEMO, changes)


@contextmanager
def judge_model() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that fails every third request; its address, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if len(asked) % 3 == 0:
                self.send_error(503)
                return
            reply = {"choices": [{"message": {"content": "8 of 10"}}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *arguments: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_the_examples_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "*")
    names = {"format": "steps_and_box", "brief": "brief", "clarity": "JudgeModel"}
    config = configured(
        *(
            f'{{name="{name}", verifier="{ROOT}/examples/rewards.py:{what}", seconds=30, '
            f"workers=2, retries=3, trusted={str(name == 'clarity').lower()}}}"
            for name, what in names.items()
        )
    )
    questions = [
        Question("4", r"one\ntwo\nthree \boxed{4}".replace(r"\n", "\n"), False,
                 {"problem": f"2 + {n}?", "tokens": tokens})
        for n, tokens in enumerate((10, 640, 5000))
    ]  # fmt: skip
    with judge_model() as (address, asked):
        monkeypatch.setenv("JUDGE_URL", address)
        with judging(config.verify, plugin_sources(config, "verify")) as judges:
            parts = [one.parts for one in judges.judge(questions)]
        assert len(asked) == 4
        # What was found is kept: for another run, and not for another judge.
        found = []
        for change in ("", ', version="8b"'):
            reward = (
                f'{{name="clarity", verifier="{ROOT}/examples/rewards.py:JudgeModel", '
                f"seconds=30, trusted=true, retries=3{change}}}"
            )
            config = configured(reward)
            for _ in range(2):
                sources = plugin_sources(config, "verify")
                with judging(config.verify, sources, tmp_path / "kept") as judges:
                    found.append([one.parts for one in judges.judge(questions)])
        assert found == [[{"clarity": 0.8}] * 3] * 4
        assert len(asked) == 13  # of nine, three failed once and one of them twice
    assert parts == [
        {"format": 1.0, "format/box": 0.5, "format/steps": 0.5, "brief": brief, "clarity": 0.8}
        for brief in (0.0, -0.5, -1.0)
    ]
    assert {one["model"] for one in asked} == {"judge"}
    assert os.environ["JUDGE_URL"] == address
