"""The census's second process: its pieces are the ones asked for, and where it dies the caller does them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from precision_planner.numerics import helper
from precision_planner.numerics.census import FLOAT32, take_totals
from precision_planner.numerics.helper import Helper, Piece, share_pieces
from precision_planner.numerics.totals import Totals

VALUES = np.random.default_rng(3).normal(0, 1e-3, 3000).astype(np.float32)
PIECES = [(400, 1000), (1400, 10), (1410, 1590)]
"""(first value, how many): none at the file's beginning."""


@pytest.fixture
def pieces(tmp_path: Path) -> list[Piece]:
    path = tmp_path / "weights.bin"
    path.write_bytes(VALUES.tobytes())
    return [Piece(str(path), 4 * start, 4 * count) for start, count in PIECES]


def sums(start: int, count: int) -> tuple[object, ...]:
    return told(take_totals([VALUES[start : start + count]], FLOAT32))


def told(totals: Totals) -> tuple[object, ...]:
    """What can be compared: how many values, their squares, magnitudes and exponents."""
    return totals.size, totals.square, totals.min_abs, totals.max_abs, totals.exponents.tolist()


@pytest.mark.slow
def test_the_helper_sums_the_values_of_a_piece_and_no_others(pieces: list[Piece]) -> None:
    with Helper() as running:
        for piece in pieces:
            running.send(piece)
        assert [told(running.receive()) for _ in pieces] == [sums(*piece) for piece in PIECES]


def mine(piece: Piece) -> Totals:
    start = piece.offset // 4
    return take_totals([VALUES[start : start + piece.nbytes // 4]], FLOAT32)


@pytest.mark.slow
def test_every_piece_is_taken_once_whoever_takes_it(pieces: list[Piece]) -> None:
    many, found = pieces * 40, dict[int, tuple[object, ...]]()
    taken: list[Piece] = []

    def take(piece: Piece) -> Totals:
        taken.append(piece)
        return mine(piece)

    def done(at: int, totals: Totals) -> None:
        assert at not in found
        found[at] = told(totals)

    share_pieces(many, take, done)
    assert found == {at: told(mine(piece)) for at, piece in enumerate(many)}
    assert taken
    assert len(taken) < len(many), "the helper did its share"


class Dying:
    """A helper that answers one piece and is gone."""

    def __init__(self) -> None:
        self.sent: list[Piece] = []

    def __enter__(self) -> Dying:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, piece: Piece) -> None:
        self.sent.append(piece)

    def has_answer(self) -> bool:
        return True

    def receive(self) -> Totals:
        if len(self.sent) > helper.AHEAD:
            raise EOFError
        return mine(self.sent[0])


class Absent:
    def __init__(self) -> None:
        raise OSError("no processes left")


@pytest.mark.parametrize("process", [Dying, Absent])
def test_where_it_cannot_help_the_caller_takes_everything(
    pieces: list[Piece], monkeypatch: pytest.MonkeyPatch, process: type
) -> None:
    monkeypatch.setattr(helper, "Helper", process)
    many, found = pieces * 3, list[tuple[int, Totals]]()
    share_pieces(many, mine, lambda at, totals: found.append((at, totals)))
    assert sorted(at for at, _ in found) == list(range(len(many)))
    assert all(told(totals) == told(mine(many[at])) for at, totals in found)
