"""BERT's uncased WordPiece tokenizer, as much of it as plain sentences need.

Only the script that writes the fixture uses it; the models and the tests read the ids from the fixture.
Source: Devlin et al. 2018 and Wu et al. 2016 (greedy longest match first).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

CLS, SEP, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"


def read_vocabulary(path: Path) -> dict[str, int]:
    """Read a ``vocab.txt``: one token a line, the line number is the id."""
    return {token: i for i, token in enumerate(path.read_text(encoding="utf-8").splitlines())}


def split_words(text: str) -> list[str]:
    """Lower-case, strip accents, split at spaces and around every punctuation mark."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    plain = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
    return re.findall(r"\w+|[^\w\s]", plain)


def split_pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Cut one word into the longest known pieces; the whole word is ``[UNK]`` when a rest is unknown."""
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocabulary:
                pieces.append(prefix + word[start:end])
                start = end
                break
        else:
            return [UNKNOWN]
    return pieces


def encode(text: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Return the ids of ``[CLS]``, the pieces of the text, ``[SEP]``."""
    pieces = [piece for word in split_words(text) for piece in split_pieces(word, vocabulary)]
    return [vocabulary[token] for token in (CLS, *pieces, SEP)]
