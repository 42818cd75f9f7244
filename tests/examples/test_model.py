"""The built model against BERT's definition in float64, and its interface."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from examples.bert_classifier import (
    PRESETS,
    BertSpec,
    build_bert_classifier,
    reference_forward,
    sample_inputs,
)
from examples.bert_classifier.__main__ import main
from examples.bert_classifier.reference import erf
from examples.bert_classifier.tokens import sentence_rows

TINY = PRESETS["tiny"]


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run in FP32 with onnxruntime's optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


VARIANTS = {
    "opset13": TINY,
    "opset17": replace(TINY, opset=17),
    "dynamo": replace(TINY, style="dynamo", opset=18),
    "fresh": replace(TINY, weights="fresh"),
    "fresh-dynamo": replace(TINY, weights="fresh", style="dynamo", opset=18),
    "massive": PRESETS["tiny-massive"],
    "ffn": PRESETS["tiny-ffn"],
    "ffn-dynamo": replace(PRESETS["tiny-ffn"], style="dynamo", opset=20),
    "odd": BertSpec(1, 24, 3, 40, 50, 16, sequence=9, variant="massive", seed=5),
    "wide": BertSpec(2, 384, 6, 64, 300, 40, sequence=20, variant="massive", seed=1),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "wide" else ()) for name in VARIANTS]
)
def test_model_computes_bert(name: str) -> None:
    """FP32 rounding is all that separates the graph from the definition.

    Logits are of order 1 and come out of two to three layers of float32 sums: 1e-6 was seen, 2e-5 is 20 times
    that. The FFN overflow sums 1.2e5 to which float32 adds 0.004: times gamma / deviation of about 2, 2e-3
    bounds it (1.1e-4 seen).
    """
    spec = VARIANTS[name]
    model = build_bert_classifier(spec)
    onnx.checker.check_model(model, full_check=True)
    inputs = sample_inputs(spec, rows=5)
    expected = reference_forward(spec, inputs["input"])
    actual = run(model, inputs)
    assert list(actual) == ["logits", "probability"]
    tolerance = 2e-3 if spec.variant == "ffn" else 2e-5
    for output, value in expected.items():
        assert actual[output].shape == (5, 11)
        np.testing.assert_allclose(actual[output], value, rtol=0, atol=tolerance, err_msg=output)
    assert np.abs(expected["probability"] - expected["probability"].mean(axis=0)).sum(axis=1).mean() > 0.1


def test_padding_changes_nothing() -> None:
    """Attention to a padding token has probability 0, so appending padding leaves the answer alone."""
    ids = sample_inputs(TINY, rows=6, sequence=30)["input"]
    longer = np.pad(ids, ((0, 0), (0, 11)))
    short, long = reference_forward(TINY, ids), reference_forward(TINY, longer)
    np.testing.assert_allclose(long["logits"], short["logits"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        run(build_bert_classifier(TINY), {"input": longer})["logits"], short["logits"], atol=2e-5
    )


def test_erf_agrees_with_libm() -> None:
    """``math.erf`` is the oracle, over both signs, zero, the seams of the table and beyond its end."""
    x = np.concatenate([np.linspace(-7, 7, 20011), np.arange(-12, 13) / 128, [1e-300, 27.0, np.inf, -np.inf, -0.0]])
    expected = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(erf(x), expected, rtol=0, atol=2.3e-16)
    assert np.isnan(erf(np.array([np.nan]))).all()


def test_reference_knows_the_named_steps() -> None:
    """Every step that the hook sees is a node of the graph, so FP32 paths can be named by node."""
    seen: set[str] = set()

    def note(step: str, value: np.ndarray) -> np.ndarray:
        seen.add(step)
        return value

    ids = sample_inputs(TINY, rows=2, sequence=8)["input"]
    reference_forward(TINY, ids, round=note, norm="decomposed")
    nodes = {node.name for node in build_bert_classifier(TINY).graph.node}
    steps = {step for step in seen if not step.endswith("/Constant")}
    assert steps <= nodes
    floats = {"MatMul", "Pow", "Sqrt", "Erf", "Tanh", "Gemm", "Softmax", "ReduceMean"}
    assert {name for name in nodes if name.rpartition("/")[2].rstrip("_1") in floats} <= steps


def test_equal_specs_give_equal_models() -> None:
    """Same spec, same bytes; another seed, other weights."""
    first = build_bert_classifier(TINY).SerializeToString(deterministic=True)
    assert build_bert_classifier(TINY).SerializeToString(deterministic=True) == first
    assert build_bert_classifier(replace(TINY, seed=1)).SerializeToString(deterministic=True) != first


def test_styles_share_their_weights() -> None:
    """Both styles and opsets hold the same model: bit-equal in float64, here within FP32's rounding."""
    inputs = sample_inputs(TINY, rows=3)
    logits = [run(build_bert_classifier(VARIANTS[name]), inputs)["logits"] for name in ("opset13", "opset17", "dynamo")]
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits[2], logits[0], rtol=0, atol=1e-5)


def test_sample_inputs_are_valid_token_ids() -> None:
    """Rows start with [CLS], end with [SEP] before the padding, differ in length, the longest fills the row."""
    for spec in (PRESETS["massive"], TINY, VARIANTS["odd"]):
        cls, sep = (101, 102) if spec.vocabulary >= 256 else (1, 2)
        ids = sample_inputs(spec, rows=60)["input"]
        lengths = (ids != 0).sum(axis=1)
        assert ids.dtype == np.int64
        assert ids.shape == (60, spec.sequence)
        assert ids.max() < spec.vocabulary
        assert (ids[:, 0] == cls).all()
        assert (ids[np.arange(60), lengths - 1] == sep).all()
        assert all((row[:n] != 0).all() for row, n in zip(ids, lengths, strict=True))
        assert lengths.max() == spec.sequence
        assert len(set(lengths)) >= 5
        assert len({row.tobytes() for row in ids}) > 50 or spec.sequence < 10


def test_every_topic_has_four_sentences() -> None:
    """Eleven classes, four sentences each, of BERT's uncased vocabulary."""
    rows = sentence_rows()
    assert sorted(topic for topic, _ in rows) == sorted(list(range(11)) * 4)
    assert all(ids[0] == 101 and ids[-1] == 102 and max(ids) < 30522 for _, ids in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opset": 18}, "writes 13 to 17"),
        ({"style": "dynamo", "opset": 17}, "writes 18 to 20"),
        ({"heads": 5}, "no multiple of heads"),
        ({"sequence": 500}, "must be between 2 and positions"),
        ({"weights": "minilm"}, "MiniLM's sizes"),
    ],
)
def test_impossible_specs_are_refused(change: dict[str, object], message: str) -> None:
    """A spec that no model can follow raises when it is made."""
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_command_writes_model_inputs_and_answers(tmp_path, capsys) -> None:
    """The files go together: onnxruntime on the written model and inputs gives the written answers."""
    out, inputs, answers = tmp_path / "m.onnx", tmp_path / "in.npz", tmp_path / "ref.npz"
    arguments = [
        str(out),
        "--hidden",
        "32",
        "--layers",
        "1",
        "--hard",
        "massive",
        "--rows",
        "3",
        "--external-data",
    ]
    assert main([*arguments, "--inputs", str(inputs), "--expected", str(answers)]) == 0
    assert main([*arguments, "--inputs", str(inputs)]) == 0
    assert "opset 13" in capsys.readouterr().out
    with np.load(inputs) as ids, np.load(answers) as expected:
        actual = run(onnx.load(out), {"input": ids["input"]})
        np.testing.assert_allclose(actual["logits"], expected["logits"], rtol=0, atol=2e-5)
    size = sum(math.prod(tensor.dims) * 4 for tensor in onnx.load(out).graph.initializer)
    assert (tmp_path / "m.onnx.data").stat().st_size < 1.2 * size


def test_command_reports_a_mistake_in_one_line(tmp_path, capsys) -> None:
    """Exit code 2, one line, no traceback, no file."""
    assert main([str(tmp_path / "m.onnx"), "--heads", "7"]) == 2
    assert capsys.readouterr().err == "error: hidden 64 is no multiple of heads 7\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_minilm_computes_bert(minilm_files: None) -> None:
    """Trained weights: the graph against the definition, and the head knows the sentences' topics."""
    spec = PRESETS["minilm"]
    rows = sentence_rows()
    inputs = sample_inputs(spec, rows=44, sequence=40)
    inputs["input"] = inputs["input"][::2]  # the even rows are single sentences, in the fixture's order
    expected = reference_forward(spec, inputs["input"])
    actual = run(build_bert_classifier(spec), inputs)
    np.testing.assert_allclose(actual["logits"], expected["logits"], rtol=0, atol=2e-5)
    right = expected["probability"].argmax(axis=1) == np.array([topic for topic, _ in rows[::2]])
    assert right.mean() >= 0.8
