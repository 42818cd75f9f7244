"""Valid inputs for the sample models: real token ids, padded with 0."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from .spec import BertSpec

PAD, CLS, SEP = 0, 101, 102
FIRST_WORD = 103


@cache
def _fixture() -> tuple[tuple[str, ...], tuple[tuple[int, tuple[int, ...]], ...]]:
    data = json.loads((Path(__file__).parent / "fixture" / "tokens.json").read_text(encoding="utf-8"))
    return tuple(data["topics"]), tuple((topic, tuple(ids)) for topic, ids in data["rows"])


def topics() -> tuple[str, ...]:
    """Return the names of the eleven classes."""
    return _fixture()[0]


def sentence_rows() -> list[tuple[int, list[int]]]:
    """Return (class, token ids with [CLS] and [SEP]) of every sentence, BERT's uncased vocabulary."""
    return [(topic, list(ids)) for topic, ids in _fixture()[1]]


def fit_vocabulary(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """Fold ids of BERT's vocabulary into a smaller one; padding, [CLS] and [SEP] stay distinct tokens.

    From 256 words on the special ids keep their numbers; below, [CLS] becomes 1 and [SEP] 2.
    """
    first = FIRST_WORD if vocabulary >= 256 else 3
    folded = first + (ids - FIRST_WORD) % (vocabulary - first)
    cls, sep = (CLS, SEP) if vocabulary >= 256 else (1, 2)
    out = np.where(ids == CLS, cls, np.where(ids == SEP, sep, folded))
    return np.where(ids == PAD, PAD, out).astype(np.int64)


def topic_batch(spec: BertSpec, rows: int, sequence: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids [rows, sequence] and classes [rows] of the first sentences of each topic, cut to length."""
    by_round = sorted(enumerate(sentence_rows()), key=lambda item: item[0] % 4)
    picked = [row for _, row in by_round][:rows]
    ids = np.stack([_padded(row, sequence) for _, row in picked])
    return fit_vocabulary(ids, spec.vocabulary), np.array([topic for topic, _ in picked])


def sample_inputs(spec: BertSpec, rows: int = 40, sequence: int | None = None) -> dict[str, np.ndarray]:
    """Return ``{"input": ids}``, int64 [rows, sequence]: sentences of varied length, padded with 0.

    Rows are as long as the sentences are, 5 to about 70 tokens; where the sequence leaves room for more,
    every second row goes on with further sentences up to a length that differs from row to row, the
    longest fills the sequence. The same arguments always give the same ids.

    Args:
      spec: gives the vocabulary and, unless said, the sequence.
      rows: at least 1; from the 45th on sentences recur in other combinations.
      sequence: 2 to ``spec.positions``; ``spec.sequence`` when None.

    Raises:
      ValueError: a sequence that the model has no positions for.
    """
    length = spec.sequence if sequence is None else sequence
    if not 2 <= length <= spec.positions:
        raise ValueError(f"sequence {length} must be between 2 and positions {spec.positions}")
    bodies = [ids[1:-1] for _, ids in sentence_rows()]
    out = np.zeros((rows, length), dtype=np.int64)
    for row in range(rows):
        step = 1 + 2 * (row // len(bodies))
        body = list(bodies[row % len(bodies)])
        target = length if row == 1 else (row * 37 % 101) * length // 101 if row % 2 else 0
        follower = row
        while len(body) + 2 < target:
            follower += step + 4
            body += [SEP, *bodies[follower % len(bodies)]]
        limit = target if target > 2 and len(body) + 2 > target else length
        out[row] = _padded([CLS, *body, SEP], length, limit)
    return {"input": fit_vocabulary(out, spec.vocabulary)}


def _padded(ids: list[int], sequence: int, limit: int | None = None) -> np.ndarray:
    """Cut to the limit, keeping the final [SEP], and pad with 0 to the sequence."""
    limit = min(sequence, limit or sequence)
    kept = ids if len(ids) <= limit else [*ids[: limit - 1], SEP]
    return np.array(kept + [PAD] * (sequence - len(kept)), dtype=np.int64)
