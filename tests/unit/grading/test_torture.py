r"""More than two hundred answers that hang, eat memory, recurse or try to be executed.

All end within limit x items / workers, with the pool alive, memory bounded and nothing executed;
none is accepted, and none that was not decided is called wrong.
"""

import os
import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread

import pytest

from icpo_core.grading.grade import GradingRules, Question, VerdictStatus
from icpo_core.grading.pool import Judges

SECONDS = 0.25
WORKERS = 2
MEMORY_MB = 256
START_SECONDS = 60  # the nursery's imports, on a busy machine
IDLE_MB = 250  # what sympy and math-verify take, mostly shared
DEEP = 10_000


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def towers() -> list[str]:
    tall = ["10^{" * n + "10" + "}" * n for n in (3, 4, 5, 10, 50, 200)]
    wide = [f"{base}^{{{base}^{{{base}}}}}" for base in (7, 9, 99, 999)]
    more = lines(r"""
        10^{10^{10^{10}}} - 10^{10^{10^{10}}} + 1
        9^{9^{9}} \bmod 10
        7^{7^{7^{7}}} \mod 10
        2^{2^{40}} + x
        (2^{10^{9}})^{10^{9}}
        1.0000001^{10^{15}}
        10^{-10^{10^{10}}}
        (-1)^{10^{10^{10}}+1}
        x^{x^{x^{x^{x}}}}
        e^{e^{e^{e^{e}}}}
    """)
    return [*tall, *wide, *more]


def large_numbers() -> list[str]:
    return lines(r"""
        (10^9)!
        (9^9)!!
        1000000000!!
        ((100!)!)!
        5!!!!!!!!!!!!
        \binom{10^{10}}{10^9}
        \binom{10^9}{5 \cdot 10^8}
        10^{10^9}
        \frac{1}{10^{10^9}}
        1e999999999
        1e-999999999
        \sqrt{10^{10^8}+1}
        \gcd((10^6)!, 7)
        \sum_{k=1}^{10^9} \frac{1}{k}
        \prod_{k=1}^{10^8} k
        \sum_{i=1}^{10^4}\sum_{j=1}^{10^4} ij
        \log_2(2^{2^{100}})
        \lfloor 10^{100000} \pi \rfloor
        F_{10^{12}}
        \Gamma(10^{12})
        (1+\sqrt{2})^{10^7}
        12345678901^{12345678901} - 1
        \left(\frac{3}{2}\right)^{10^{12}}
    """)


def digits() -> list[str]:
    repeated = ["1,", "1;", "1+", "1-", "1*", "2^", "1/", "x_", "1 ", ".", "1."]
    return [
        "7" * 1_000_000,
        "0." + "3" * 1_000_000,
        "1," * 500_000 + "1",
        "-" * 1_000_000 + "1",
        "1" + "0" * 1_999,
        "9" * 1_999,
        "0." + "1" * 1_990,
        "1" * 900 + "/" + "3" * 900,
        "\\frac{" + "1" * 900 + "}{" + "7" * 900 + "}",
        "0." + "0" * 1_900 + "1",
        *(text * 900 + "1" for text in repeated),
    ]


def nests() -> list[str]:
    pairs = [
        line.split()
        for line in lines(r"""
        { }
        ( )
        [ ]
        \{ \}
        \left( \right)
        | |
        \sqrt{ }
        \text{ }
        \frac{1}{ }
        x^{ }
        x_{ }
        \boxed{ }
        -( )
        \overline{ }
        \sin( )
        f( )
        \begin{pmatrix} \end{pmatrix}
        \begin{cases} \end{cases}
        \lfloor{} \rfloor{}
        \log_{ }
        \binom{n}{ }
        1+\frac{1}{1+ }
    """)
    ]
    found = [opening * DEEP + "1" + closing * DEEP for opening, closing in pairs[:6]]
    for opening, closing in pairs:
        depth = 1_900 // (len(opening) + len(closing))
        found.append(opening * depth + "1" + closing * depth)
        found.append(opening * 30 + "1" + closing * 30)
    return [*found, "{" * DEEP, "}" * DEEP, "(" * 1_900, "\\{" * 900, "{}" * 900, "({[" * 600]


def bombs() -> list[str]:
    algebra = lines(r"""
        (a+b+c+d)^{1000000}
        (x+1)^{1000} - (x-1)^{1000}
        (x+y+z)^{200} (x-y)^{200}
        \int_0^1 x^{x^{x^x}} dx
        \int \frac{1}{x^{20}+\sin x} dx
        \int\int\int e^{xyz} dx dy dz
        \lim_{x\to 0}\frac{\sin(\tan x)-\tan(\sin x)}{x^7}
        \frac{d^{50}}{dx^{50}} \sin(x^x)
        \sum_{n=1}^{\infty} \frac{1}{n^3+n+1}
        x^{100}+x^{99}+1=0
        \sqrt{2+\sqrt{2+\sqrt{2+\sqrt{2}}}}^{99}
        \pm 1 \pm 2 \pm 3 \pm 4 \pm 5 \pm 6 \pm 7 \pm 8
        1, 2, \ldots, 1000000000
        \{1, 3, \ldots, 999999\}
        n \equiv 1 \pmod{999999}
        n \not\equiv 1 \pmod{999999}
        (1,2,3,4,5) \text{ and all permutations}
        \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}^{10^{12}}
    """)
    repeated = lines(r"""
        \pm
        1:
        x=
        \det
        \frac
        \sqrt
        ^
        _
        \
        &
        %
        \\
        \not
        a
        and
        \text{a}
        \text{and}
        \text{1 and 2}
        1\,000
        1,000
        \$
        °
        '
        !
        <
        =
        \le
        0.(
        0.\overline{
        1\frac{1}{2}
        (1,2)\cup
        \mathbb{R}\setminus
    """)
    joined = "\\text{or}".join(f"x={n}" for n in range(150))
    wide = "\\begin{pmatrix}" + "1 & " * 400 + "1\\end{pmatrix}"
    return [*algebra, *(f"{text} " * (1_900 // (len(text) + 1)) for text in repeated), joined, wide]


def broken_text() -> list[str]:
    return [
        "\0", "4\0", "\0" * 1_000, "\ud800", "4\udfff", "\ud83d" * 500, "\ufffd", "\ufeff5",
        b"\xff\xfe\x80".decode("latin-1"), b"\xff4\xfe".decode("utf-8", "surrogateescape"),
        "5\u202e4", "\u200b" * 900 + "5", "5" + "\u0301" * 900, "\U000e0034", "\x1b[31m5\x1b[0m",
        "\x08" * 900, "\r\n" * 900, "\x7f", "\u2028" * 99,
    ]  # fmt: skip


def look_alikes() -> list[str]:
    # None of these is 4, x+1 or (10, 3): letters of other scripts, digits of other values.
    return lines(
        "Ч\nх+1\nχ+1\nⅹ+2\n1О\nl0\nI0\n౪0\n۵\n५\n５\n𝟓\n⑤\n❺\nⅤ\n五\n⁵\n₅\n4‰\n4‱"
    ) + lines("4⁄1000\n−4\n﹣4\n－4\n¬4\n≠4\n∓4\n4√4\n4²")


def code(canary: str) -> list[str]:
    return lines(
        r"""
        __import__('os').system('touch CANARY')
        exec("open('CANARY','w')")
        open('CANARY','w').write('x')
        eval(compile("open('CANARY','w')",'','exec'))
        lambda: __import__('os').system('touch CANARY')
        [c for c in ().__class__.__base__.__subclasses__()][0]('CANARY')
        $(touch CANARY)
        `touch CANARY`
        ; touch CANARY
        | touch CANARY
        && touch CANARY
        '; touch CANARY; '
        "; touch CANARY; "
        ${IFS}touch CANARY
        \write18{touch CANARY}
        \immediate\write18{touch CANARY}
        \input{|touch CANARY}
        \input{/etc/passwd}
        \include{/etc/passwd}
        \def\x{\x\x}\x
        \loop\iftrue\repeat
        \newcommand{\x}{\x}\x
        \csname end\endcsname
        \catcode`\{=12
        %s%s%s%n
        %08x.%08x.%08x.%n
        {0.__class__.__mro__}
        {{7*7}}
        ${7*7}
        #{7*7}
        <%= 7*7 %>
        ${jndi:ldap://127.0.0.1/x}
        <script>alert(1)</script>
        '; DROP TABLE verdicts; --
        <!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>
        !!python/object/apply:os.system ['touch CANARY']
        while True: pass
        while(1);
        :(){ :|:& };:
        import os; os.fork()
        os._exit(0)
        sys.exit(1)
        raise SystemExit
        raise KeyboardInterrupt
        quit()
        exit
        Symbol('x').__class__
        sympy.factorint(10**80+1)
        Integer(10)**10**10
        S('1')/0
        \frac{1}{0}
        0^{-1}
        \infty - \infty
        NaN
        nan
        None
        null
        undefined
        True
        [object Object]
        -0
        \dots
        """.replace("CANARY", canary)
    )


def descendants_mb(pid: int) -> float:
    """What the children of this process hold for themselves (shared pages divided), in MiB."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
                total += int(rollup.partition("\nPss:")[2].split()[0]) / 1024
                total += descendants_mb(int(child))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has ended meanwhile
    return total


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "executed"


def test_the_torture_set(canary: Path) -> None:
    by_kind = {
        "towers": towers(), "large numbers": large_numbers(), "digits": digits(), "nests": nests(),
        "bombs": bombs(), "broken text": broken_text(), "look-alikes": look_alikes(),
        "code": code(str(canary)),
    }  # fmt: skip
    answers = [text for texts in by_kind.values() for text in texts]
    assert len(set(answers)) > 230
    golds = ["4", "x+1", "(10, 3)"]
    questions = [Question(golds[at % 3], f"so \\boxed{{{t}}}") for at, t in enumerate(answers)]
    # Hostile gold answers too, each with a plain candidate.
    questions += [Question(text, r"\boxed{(1, x)}") for text in answers[::4]]

    peak, over = [0.0], Event()

    def watch() -> None:
        while not over.wait(0.1):
            peak[0] = max(peak[0], descendants_mb(os.getpid()))

    watcher = Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    with Judges(WORKERS, SECONDS, MEMORY_MB, GradingRules()) as pool:
        found = pool.judge(questions)
        seconds = time.monotonic() - started
        alive = pool.judge([Question("\\frac{1}{2}", r"\boxed{\frac{2}{4}}")])[0]
    over.set()
    watcher.join()

    assert seconds < START_SECONDS + SECONDS * len(questions) / WORKERS
    assert alive.status == "correct"
    assert peak[0] < IDLE_MB + WORKERS * MEMORY_MB * 1.5
    assert os.listdir() == []  # nothing was executed
    accepted = [q for q, v in zip(questions, found, strict=True) if v.status == "correct"]
    assert accepted == [], accepted
    counts = Counter(verdict.status for verdict in found)
    assert counts[VerdictStatus.timeout] > 5  # some do hang, or this would test little
    assert counts[VerdictStatus.wrong] > len(questions) / 2
    for verdict in found:
        if verdict.extracted is not None:
            assert len(verdict.extracted) <= 2_001
            verdict.extracted.encode("utf-8")
        if verdict.status in ("timeout", "error"):
            assert verdict.detail
            assert verdict.reward == 0.0
