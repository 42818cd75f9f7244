"""The pages in docs/rules are what the rules say now; the torch lists are what torch says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from precision_planner.cli.rules import measure_case
from precision_planner.planning.cures import example_graphs
from precision_planner.rules import load_rulebook
from precision_planner.rules.language.pages import rule_pages
from precision_planner.writing import made_files, write_set

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "rules"


def test_the_pages_are_up_to_date():
    pages = rule_pages(load_rulebook(), lambda rule: example_graphs(rule, measure_case))
    if os.environ.get("PLANNER_UPDATE_GOLDENS"):
        write_set(DOCS, {name: text.encode() for name, text in pages.items()})
    stale = [name for name, text in pages.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run: PLANNER_UPDATE_GOLDENS=1 pytest tests/rules/test_pages.py"
    assert {path.name for path in DOCS.glob("*.md")} == set(pages)
    # by the manifest `planner rules --docs docs/rules` knows them for its own, in a fresh clone too
    assert made_files(DOCS) == set(pages)


def test_no_table_of_the_language_is_left_out():
    text = (DOCS / "language.md").read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z_]+@", text)


TORCH_TO_ONNX = {
    "acos": "Acos", "asin": "Asin", "cosh": "Cosh", "exp": "Exp", "log": "Log", "reciprocal": "Reciprocal",
    "sinh": "Sinh", "tan": "Tan", "pow": "Pow", "softplus": "Softplus", "layer_norm": "LayerNormalization",
    "rms_norm": "RMSNormalization", "group_norm": "GroupNormalization", "prod": "ReduceProd", "softmax": "Softmax",
    "log_softmax": "LogSoftmax", "cumprod": "CumProd", "cumsum": "CumSum", "sum": "ReduceSum",
    "linalg_vector_norm": "ReduceL2", "logsumexp": "ReduceLogSumExp", "nll_loss": "NegativeLogLikelihoodLoss",
    "upsample_nearest2d": "Resize", "conv2d": "Conv", "conv_transpose2d": "ConvTranspose", "prelu": "PRelu",
    "matmul": "MatMul", "addmm": "Gemm", "einsum": "Einsum", "lstm_cell": "LSTM", "gru_cell": "GRU",
    "rnn_tanh_cell": "RNN", "scaled_dot_product_attention": "Attention",
}  # fmt: skip


@pytest.mark.torch
def test_the_autocast_lists_are_torchs():
    torch = pytest.importorskip("torch")
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    text = header.read_text(encoding="utf-8")

    def names(*macros):
        found = set()
        for macro in macros:
            body = re.search(rf"#define {macro}\(_\)(.*?)\n\n", text, re.DOTALL)
            assert body is not None, macro
            found |= set(re.findall(r"_\((\w+)", body.group(1)))
        return found

    book = load_rulebook()
    lists = {
        "AMP001": names("AT_FORALL_FP32", "AT_FORALL_FP32_SET_OPT_DTYPE"),
        "AMP002": names("AT_FORALL_LOWER_PRECISION_FP"),
    }
    for torch_name, op_type in TORCH_TO_ONNX.items():
        for rule_id, theirs in lists.items():
            assert (op_type in book.get(rule_id).match.names) == (torch_name in theirs), (rule_id, torch_name)
