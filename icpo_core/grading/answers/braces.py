"""Arguments of LaTeX commands: where they start and end, and the braces that writers leave out."""

import re


def with_braces(text: str) -> str:
    r"""Give ``\frac12``, ``\sqrt3``, ``\sqrt(3)``, ``x^(n+1)`` and ``2^-1`` their braces.

    From right to left, so that an inner fraction is mended before the one around it.
    """
    arities = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, "^": 1}
    for match in reversed(
        list(re.finditer(r"\\frac(?![a-z])|\\binom(?![a-z])|\\sqrt(?![a-z])|\^", text))
    ):
        name, at = match.group(), match.end()
        built = name
        if name == r"\sqrt":
            optional = re.compile(r"\s*\[[^\[\]]*\]").match(text, at)
            if optional:
                built += optional.group().strip()
                at = optional.end()
        for _ in range(arities[name]):
            found = _argument(text, at, parentheses=name in (r"\sqrt", "^"))
            if found is None:
                break
            content, at = found
            built += f"{{{content}}}"
        text = text[: match.start()] + built + text[at:]
    return text


def _argument(text: str, at: int, parentheses: bool) -> tuple[str, int] | None:
    """Return the TeX argument at `at` and where it ends; None if there is none."""
    while at < len(text) and text[at].isspace():
        at += 1
    if at >= len(text) or text[at] in "}])&,;=":
        return None
    if text[at] == "{" or (parentheses and text[at] == "("):
        end = closing(text, at)
        return None if end is None else (text[at + 1 : end], end + 1)
    if text[at] == "\\":
        command = re.compile(r"\\(?:[a-zA-Z]+|.)").match(text, at)
        if command is None:
            return None
        if command.group() in (r"\frac", r"\sqrt", r"\binom"):
            end = command.end()
            for group in re.compile(r"\s*\{").finditer(text, end):
                if group.start() != end:
                    break
                close = closing(text, group.end() - 1)
                if close is None:
                    return None
                end = close + 1
            return text[at:end], end
        return command.group(), command.end()
    if parentheses:  # plain text: x^10, x^-2, x^2.5
        number = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|[A-Za-z](?![a-z]))").match(text, at)
        if number:
            return number.group(), number.end()
    return text[at], at + 1


def closing(text: str, at: int) -> int | None:
    """Return where the bracket at `at` closes, whatever kinds of brackets are between."""
    depth = 0
    skip = False
    opening, ending = text[at], {"{": "}", "(": ")", "[": "]"}[text[at]]
    for place in range(at, len(text)):
        char = text[place]
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char == opening:
            depth += 1
        elif char == ending:
            depth -= 1
            if depth == 0:
                return place
    return None
