"""The census of a whole model: every tensor, wherever it sits, against brute force; roles; two processes; memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from precision_planner.analysis import scan, weights_census
from precision_planner.analysis.tensors import float_tensors
from precision_planner.analysis.weights import Weights
from precision_planner.model import GraphIndex, Model
from precision_planner.numerics import FP16
from precision_planner.numerics import helper as census_helper
from precision_planner.patterns import find_patterns
from tests.numerics import oracle

from .models import constant, everywhere, model, value


def take(proto: onnx.ModelProto | Path) -> Weights:
    loaded = Model.load(proto)
    index = GraphIndex(loaded.proto)
    return weights_census(loaded, index, find_patterns(loaded, index=index))


def check(weights: Weights, expected: dict[str, np.ndarray]) -> None:
    found = {tensor.name: tensor for tensor in weights}
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        want = oracle.count(array, "fp16")
        stats = found[name].stats
        got = {key: getattr(stats, key, None) for key in ("zeros", "nan", "inf", "min_abs", "max_abs")}
        assert got == {key: getattr(want, key) for key in got}, name
        for key, count in stats.fp16.classes.to_dict().items():
            assert count == getattr(want, key), (name, key)
        assert stats.dtype == array.dtype.name
        assert stats.size == array.size


@pytest.mark.parametrize("store", ["memory", "file", "external"])
def test_every_place(store: str, tmp_path: Path) -> None:
    proto, expected = everywhere(np.random.default_rng(0))
    path = tmp_path / "model.onnx"
    if store != "memory":
        onnx.save(proto, path, save_as_external_data=store == "external", size_threshold=0)
    weights = take(proto if store == "memory" else path)
    check(weights, expected)
    assert weights.scanned_bytes == sum(array.nbytes for array in expected.values())
    assert {tensor.name: tensor.kind for tensor in weights if tensor.kind != "initializer"} == {
        "big_constant": "constant",
        "value_float": "constant",
        "value_floats": "constant",
        "then_constant": "constant",
        "else_constant": "constant",
        "in_function": "constant",
        "sparse": "sparse_initializer",
        "sparse_constant": "sparse_constant",
        "filled": "fill",
    }
    assert weights["sparse"].shape == (64,)
    assert weights["in_function"].scope[0].startswith("fn:local:Scale")
    assert weights["then_constant"].scope == ("chosen.then_branch",)


def test_every_encoding_of_the_values() -> None:
    array = (np.random.default_rng(1).standard_normal((40, 30)) * 1e-4).astype(np.float16)
    bits = array.view(np.uint16).astype(np.int32).ravel().tolist()
    proto = model(
        [
            helper.make_node("MatMul", ["x", "half"], ["h"]),
            helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
        ],
        [value("x", ["N", 40], TensorProto.FLOAT16)],
        [value("y", ["N", 30])],
    )
    proto.graph.initializer.append(
        TensorProto(name="half", data_type=TensorProto.FLOAT16, dims=array.shape, int32_data=bits)
    )
    single = np.linspace(-1e-4, 1e5, 999).astype(np.float32)
    proto.graph.initializer.append(
        TensorProto(name="single", data_type=TensorProto.FLOAT, dims=[999], float_data=single.tolist())
    )
    check(take(proto), {"half": array, "single": single})


def test_roles() -> None:
    rng = np.random.default_rng(2)

    def weight(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        constant("two", np.float32(2)),
        constant("eps", np.float32(1e-12)),
        constant("low", np.float32(-3.4e38)),
        constant("one", np.float32(1)),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Add", ["e", "positions"], ["x"]),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[-1]),
        helper.make_node("Sub", ["x", "m"], ["d"]),
        helper.make_node("Pow", ["d", "two"], ["p"]),
        helper.make_node("ReduceMean", ["p"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["ve"]),
        helper.make_node("Sqrt", ["ve"], ["r"]),
        helper.make_node("Div", ["d", "r"], ["n"]),
        helper.make_node("Mul", ["n", "gamma"], ["ng"]),
        helper.make_node("Add", ["ng", "beta"], ["norm"]),
        helper.make_node("Transpose", ["linear"], ["linear_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["norm", "linear_t"], ["l"]),
        helper.make_node("Add", ["l", "shared"], ["l2"]),
        helper.make_node("Add", ["l2", "shared"], ["l3"]),
        helper.make_node("LayerNormalization", ["l3", "shared_gamma", "shared"], ["l4"]),
        helper.make_node("Mul", ["l4", "shared_gamma"], ["l5"]),
        helper.make_node("Sub", ["one", "mask"], ["inverse"]),
        helper.make_node("Mul", ["inverse", "low"], ["additive"]),
        helper.make_node("Add", ["l5", "additive"], ["y"]),
    ]
    proto = model(
        nodes,
        [value("ids", ["N", 5], TensorProto.INT64), value("mask", ["N", 5, 1])],
        [value("y", ["N", 5, 8])],
        {
            "table": weight(20, 8),
            "positions": weight(5, 8),
            "gamma": weight(8),
            "beta": weight(8),
            "linear": weight(8, 8),
            "shared": weight(8),
            "shared_gamma": weight(8),
            "nobody": weight(3),
        },
        opset=17,
    )
    found = {tensor.name: tensor.roles for tensor in take(proto)}
    assert found == {
        "table": ("embedding",),
        "positions": ("constant",),
        "gamma": ("layernorm_gamma",),
        "beta": ("layernorm_beta",),
        "linear": ("matmul_weight",),
        "shared": ("layernorm_beta", "bias"),
        "shared_gamma": ("layernorm_gamma", "scale"),
        "nobody": ("unused",),
        "two": ("exponent",),
        "eps": ("epsilon",),
        "low": ("mask",),
        "one": ("scalar",),
    }


def test_readers_are_followed_into_bodies_and_functions() -> None:
    weights = take(everywhere(np.random.default_rng(0))[0])
    assert weights["w"].role == "matmul_weight"
    assert weights["w"].readers == ("MatMul(b)",)
    assert weights["in_then"].role == "scale"
    assert weights["filled"].role == "fill"
    assert weights["half"].role == "unused"


@pytest.mark.parametrize(
    ("array", "role", "verdict"),
    [
        (np.random.default_rng(0).normal(0, 0.03, (200, 200)), "matmul_weight", "noise"),
        (np.full((8, 8), 1e-7), "matmul_weight", "degraded"),
        (np.full((8, 8), 1e-9), "matmul_weight", "lost"),
        (np.full((8, 8), 9e4), "matmul_weight", "overflow"),
        (np.full((8, 8), 65510.0), "matmul_weight", "overflow"),
        (np.full((8, 8), np.inf), "matmul_weight", "not finite"),
        (np.full((8, 8), 0.5), "matmul_weight", "clean"),
    ],
)
def test_noise_is_told_from_damage(array: np.ndarray, role: str, verdict: str) -> None:
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", ["N", array.shape[0]])],
        [value("y", ["N", array.shape[1]])],
        {"w": array.astype(np.float32)},
    )
    tensor = take(proto)["w"]
    assert (tensor.role, tensor.assessment.verdict) == (role, verdict)
    assert tensor.to_dict()["assessment"] == tensor.assessment.sentence


def test_ranked_by_the_error_and_not_by_counts() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "noisy"], ["a"]),
        helper.make_node("Add", ["a", "bias"], ["b"]),
        helper.make_node("Mul", ["b", "gamma"], ["y"]),
    ]
    initializers = {
        "noisy": rng.normal(0, 0.03, (64, 64)).astype(np.float32),
        "gamma": np.full(64, 1e-7, np.float32),
        "bias": np.array([9e4] + [0.1] * 63, np.float32),
    }
    weights = take(model(nodes, [value("x", ["N", 64])], [value("y", ["N", 64])], initializers))
    assert [tensor.name for tensor in weights.ranked()] == ["bias", "gamma", "noisy"]


def test_two_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, arrays = _large(tmp_path)
    one = take(path)
    monkeypatch.setattr(scan, "HELP_FROM", 0)
    monkeypatch.setattr(scan, "PIECE", 1 << 16)
    calls = []
    receive = census_helper.Helper.receive
    monkeypatch.setattr(census_helper.Helper, "receive", lambda self: calls.append(1) or receive(self))
    two = take(path)
    assert calls, "the second process answered nothing"
    check(two, arrays)
    for a, b in zip(one, two, strict=True):
        assert a.stats.exponents == b.stats.exponents
        assert a.stats.fp16.rel_error == pytest.approx(b.stats.fp16.rel_error, rel=1e-6)


@pytest.mark.parametrize("fault", ["does not start", "dies at once"])
def test_the_census_goes_on_alone_when_the_second_process_fails(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, arrays = _large(tmp_path)
    monkeypatch.setattr(scan, "HELP_FROM", 0)
    monkeypatch.setattr(scan, "PIECE", 1 << 16)
    executable = "/nonexistent/python" if fault == "does not start" else "/bin/false"
    monkeypatch.setattr(census_helper.sys, "executable", executable)
    check(take(path), arrays)


def _large(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    arrays = {f"w{at}": (rng.standard_normal((300, 300)) * 10.0**-at).astype(np.float32) for at in range(4)}
    nodes = [helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"]) for at in range(4)]
    proto = model(nodes, [value("x0", ["N", 300])], [value("x4", ["N", 300])], arrays)
    onnx.save(proto, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return folder / "m.onnx", arrays


def test_progress_adds_up_to_the_bytes() -> None:
    loaded = Model.load(everywhere(np.random.default_rng(0))[0])
    index = GraphIndex(loaded.proto)
    told: list[float] = []
    weights = weights_census(loaded, index, progress=told.append)
    assert sum(told) == weights.scanned_bytes == sum(tensor.nbytes for tensor in float_tensors(index))


def test_whole_model_histogram_and_formats() -> None:
    weights = take(everywhere(np.random.default_rng(0))[0])
    assert sum(weights.exponents().values()) == sum(tensor.stats.size - tensor.stats.zeros for tensor in weights)
    assert list(weights.exponents()) == sorted(weights.exponents())
    assert weights.format is FP16
    json.dumps(weights.to_dict(), allow_nan=False)
    with pytest.raises(KeyError, match="no float tensor"):
        weights["nope"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """1 GB of external weights, well over 300 MB, within 300 MB of anonymous memory."""
    script = "import sys, json, pathlib, benchmarks.census as b\npath = b.write_model(pathlib.Path(sys.argv[1]), 1.0)\n"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    script = (
        "import sys, pathlib, benchmarks.census as b, precision_planner as pp\n"
        "with b.AnonymousMemory() as memory:\n"
        "    analysis = pp.analyze(sys.argv[1])\n"
        "print(analysis.weights.scanned_bytes, memory.highest)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.onnx")], check=True, capture_output=True, text=True
    )
    scanned, highest = map(int, done.stdout.split())
    assert scanned > 9e8
    assert highest < 300e6
