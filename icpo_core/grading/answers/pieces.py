"""Pieces of the real line: their order, their union, what they share and what they leave out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mpmath import mpf

Worth = Callable[[str], mpf | None]
"""The real value of an expression, infinities included; None if it has symbols or none."""


@dataclass(frozen=True)
class Piece:
    """All between two ends; a single point where both are one closed end."""

    low: str
    high: str
    low_closed: bool
    high_closed: bool


def complement(pieces: tuple[Piece, ...], worth: Worth) -> tuple[Piece, ...] | None:
    found: list[Piece] = []
    low, closed = r"-\infty", False
    for piece in merged(pieces, worth):
        if worth(piece.low) is None:
            return None
        if piece.low != r"-\infty":
            found.append(Piece(low, piece.low, closed, not piece.low_closed))
        low, closed = piece.high, not piece.high_closed
    if low != r"\infty":
        found.append(Piece(low, r"\infty", closed, False))
    return tuple(found)


def intersection(
    ours: tuple[Piece, ...], theirs: tuple[Piece, ...], worth: Worth
) -> tuple[Piece, ...]:
    found = []
    for a in ours:
        for b in theirs:
            lows = [end for end in (worth(a.low), worth(b.low)) if end is not None]
            highs = [end for end in (worth(a.high), worth(b.high)) if end is not None]
            if len(lows) < 2 or len(highs) < 2:
                return ()
            low = max(zip(lows, (not a.low_closed, not b.low_closed), (a.low, b.low), strict=True))
            high = min(zip(highs, (a.high_closed, b.high_closed), (a.high, b.high), strict=True))
            closed = not low[1], high[1]
            if low[0] < high[0] or (low[0] == high[0] and all(closed)):
                found.append(Piece(low[2], high[2], *closed))
    return tuple(found)


def merged(pieces: tuple[Piece, ...], worth: Worth) -> tuple[Piece, ...]:
    """The pieces sorted, those that touch made one; as they are where an end has symbols."""
    ends = [(worth(piece.low), worth(piece.high)) for piece in pieces]
    if any(low is None or high is None for low, high in ends):
        return pieces
    order = sorted(range(len(pieces)), key=lambda at: (ends[at][0], not pieces[at].low_closed))
    joined: list[tuple[Piece, mpf]] = []
    for at in order:
        piece, (low, high) = pieces[at], ends[at]
        if joined:
            last, last_high = joined[-1]
            if low < last_high or (low == last_high and (piece.low_closed or last.high_closed)):
                if high > last_high or (high == last_high and piece.high_closed):
                    last = replace(last, high=piece.high, high_closed=piece.high_closed)
                    last_high = high
                joined[-1] = (last, last_high)
                continue
        joined.append((piece, high))
    return tuple(piece for piece, _ in joined)
