"""How a problem and its worked examples become a prompt's text and token ids.

`chat` puts everything into one user turn of the model's own chat template, behind the system
message if there is one::

    examples, each by example_template
    what example_template has before {problem}, so that the question looks like theirs
    the problem
    joiner, instruction

Without examples the turn is the problem, the joiner and the instruction.

`raw` is plain text: the examples, each by example_template, then the problem by question_template.
The expert prompt, the one with examples, may have the other format than the bare one.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icpo_core.config import PromptsSection

THINKING_SWITCH = "enable_thinking"


@dataclass(frozen=True)
class Example:
    """A worked example: problem and solution, as text or as a program (PoT)."""

    problem: str
    solution: str


class Template:
    """Writes and tokenises prompts.

    Raises ValueError with one line if a template names an unknown slot or the tokenizer cannot do
    what `settings` ask for.
    """

    def __init__(self, tokenizer: Any, settings: PromptsSection) -> None:
        self._tokenizer = tokenizer
        self._example = settings.example_template
        self._question = settings.question_template
        self._dress = _check("example_template", self._example, ("problem", "solution"))
        _check("question_template", self._question, ("problem",))
        self._instruction = _check("instruction", settings.instruction, ())
        self._system = _check("system", settings.system, ())
        self._joiner = settings.joiner
        self._chat = settings.format == "chat"
        same = settings.expert_format == "same"
        self._expert_chat = self._chat if same else settings.expert_format == "chat"
        self._switch: dict[str, bool] = {}
        self._start: list[int] = []  # of raw text; a chat template writes what it wants there
        if self._chat or self._expert_chat:
            source = _chat_template(tokenizer)
            if settings.thinking is not None:
                if THINKING_SWITCH not in source:
                    raise ValueError(
                        f"prompts.thinking is set, but this model's chat template has no "
                        f"{THINKING_SWITCH}: leave prompts.thinking out"
                    )
                self._switch = {THINKING_SWITCH: settings.thinking}
            # A template that refuses such turns, or drops one, does so now.
            if self._system.strip() not in self._turns("1 + 1 = ?"):
                raise ValueError(
                    "the model's chat template drops the system message: leave prompts.system out, "
                    "or put its text into prompts.instruction"
                )
        if not (self._chat and self._expert_chat):
            self._start = _start_tokens(tokenizer)
            bos = tokenizer.bos_token
            first = self._question if not self._chat else self._example
            if self._start and bos and first.startswith(bos):
                self._start = []  # the user's template writes it

    def example(self, example: Example) -> str:
        """The text of one worked example."""
        return self._example.format(problem=example.problem, solution=example.solution)

    def render(self, problem: str, examples: Sequence[Example] = ()) -> str:
        """The prompt's text, examples in the order given: with any, it is an expert prompt."""
        shown = "".join(self.example(example) for example in examples)
        if not (self._expert_chat if examples else self._chat):
            return shown + self._question.format(problem=problem)
        turn = f"{shown}{self._dress if examples else ''}{problem}"
        if self._instruction:
            turn = f"{turn}{self._joiner}{self._instruction}"
        return self._turns(turn)

    def _turns(self, turn: str) -> str:
        """A user's turn, after the system message if there is one, in the chat template."""
        import jinja2  # whoever only plans goes without

        messages = [{"role": "user", "content": turn}]
        if self._system:
            messages.insert(0, {"role": "system", "content": self._system})
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._switch
            )
        except jinja2.TemplateError as error:
            turns = "a system message and a user turn" if self._system else "one user turn"
            fix = "leave prompts.system out" if self._system else "set prompts.format = raw"
            raise ValueError(
                f"the model's chat template refuses a prompt of {turns} ({error}); {fix}"
            ) from error
        return text

    def tokenize(self, texts: Sequence[str], expert: bool = False) -> list[list[int]]:
        """Token ids of rendered prompts, with one BOS where the model wants one. expert: they have
        examples."""
        if not texts:
            return []
        # Not verbose: what is longer than the model's limit is for `max_tokens` to judge.
        ids = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        start = [] if (self._expert_chat if expert else self._chat) else self._start
        return [start + list(row) for row in ids]


def _check(name: str, template: str, slots: Sequence[str]) -> str:
    """What the template has before its first slot. Raises ValueError if it is not these slots."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"prompts.{name}: {error}; write {{{{ and }}}} where braces are meant"
        ) from None
    named = [field for _, field, _, _ in parts if field is not None]
    if unknown := [field for field in named if field not in slots]:
        raise ValueError(
            f"prompts.{name}: unknown slot {{{unknown[0]}}}; "
            "write {{ and }} where braces are meant"
        )
    if named != list(slots):
        needed = " and then ".join(f"{{{slot}}}" for slot in slots)
        raise ValueError(f"prompts.{name} must contain {needed}, each once")
    before = ""
    for text, slot, _, _ in parts:  # a doubled brace ends a part too
        before += text
        if slot is not None:
            break
    return before


def _chat_template(tokenizer: Any) -> str:
    """Source of the tokenizer's chat template. Raises ValueError where there is none."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ValueError("this model's tokenizer has no chat template: set prompts.format = raw")
    return str(template)


def _start_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text: [BOS] or nothing. An EOS it appends is no part."""
    ids = tokenizer("")["input_ids"]
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and ids[:1] == [bos] else []
