"""What is written, checked and measured, against a real tritonserver (see `server.py`)."""

from __future__ import annotations

import csv
import io
import json
import os

import ml_dtypes
import numpy as np
import pytest

from precision_planner.errors import ServerError
from precision_planner.serving.client import Server, parse_address
from precision_planner.serving.refusals import REFUSALS
from tests.serving.conftest import SEQUENCE, Served
from tests.serving.server import Installation, metrics_of

pytestmark = [pytest.mark.slow, pytest.mark.triton]

PATTERNS = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def connect(served: Served, protocol: str, timeout_s: float = 20.0) -> Server:
    place = served.server.grpc if protocol == "grpc" else served.server.http
    return Server(parse_address(f"{protocol}://{place}"), timeout_s=timeout_s)


class TestRepository:
    def test_loads_as_it_was_written(self, served):
        with connect(served, "http") as server:
            for name in ("bert", "bert_baseline", "half", "brain"):
                server.interface(name)
        for name in ("bert", "bert_baseline"):
            assert f"successfully loaded '{name}'" in served.server.said

    def test_the_config_is_the_servers(self, served):
        with connect(served, "grpc") as server:
            config = server.config("bert")
        assert config["max_batch_size"] == 40
        assert config["dynamic_batching"]["preferred_batch_size"] == [8, 40]
        assert config["optimization"]["cuda"]["graphs"] is True
        assert [(entry["data_type"], entry["dims"]) for entry in config["output"]] == [("TYPE_FP16", ["11"])] * 2
        assert config["input"][0]["data_type"] == "TYPE_INT32"

    def test_warm_up_ran_before_the_first_request(self, served):
        # 1, 8 and 40 rows: the sizes that the batcher makes
        counted = metrics_of(served.server)
        assert counted['nv_inference_count{model="bert_baseline",version="1"}'] >= 49

    def test_a_config_that_differs_from_the_engine_is_refused_by_the_stand_in(self, served):
        assert "input 'x' is TYPE_FP32 in the config, tensor(float16) in the engine" in served.server.said


class TestWire:
    @pytest.mark.parametrize("protocol", ["http", "grpc"])
    def test_every_fp16_comes_back_bit_by_bit(self, served, protocol):
        sent = PATTERNS.view(np.float16)
        with connect(served, protocol) as server:
            parts = [server.infer("half", {"x": sent[at : at + 32]})["y"] for at in range(0, 256, 32)]
        answer = np.concatenate(parts)
        assert answer.dtype == np.float16
        np.testing.assert_array_equal(answer.view(np.uint16), PATTERNS)

    @pytest.mark.parametrize("protocol", ["http", "grpc"])
    def test_every_bf16_comes_back_bit_by_bit(self, served, protocol):
        sent = PATTERNS.view(ml_dtypes.bfloat16)
        with connect(served, protocol) as server:
            parts = [server.infer("brain", {"x": sent[at : at + 32]})["y"] for at in range(0, 256, 32)]
        answer = np.concatenate(parts)
        assert answer.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(answer.view(np.uint16), PATTERNS)


def _said(kind: str) -> str:
    """The part of a refusal's meaning that has no values in it."""
    meaning = next(refusal.meaning for refusal in REFUSALS if refusal.kind == kind)
    return max((part.partition("}")[2] or part for part in meaning.split("{")), key=len).strip()


class TestRefusals:
    """Every refusal: the real server says it, and we say what it means."""

    HALF = np.zeros((1, 256), np.float16)

    @pytest.mark.parametrize("protocol", ["http", "grpc"])
    @pytest.mark.parametrize(
        ("kind", "model", "arrays"),
        [
            ("type", "half", {"x": HALF.astype(np.float32)}),
            ("shape", "half", {"x": HALF[:, :3]}),
            ("shape", "half", {"x": HALF[0, :4]}),
            ("batch", "half", {"x": HALF[0]}),
            ("batch", "half", {"x": np.zeros((41, 256), np.float16)}),
            ("unknown_tensor", "half", {"z": HALF}),
            ("missing_input", "half", {}),
            ("not_ready", "no_such_model", {"x": HALF}),
            ("not_ready", "broken", {"x": HALF}),
        ],
    )
    def test_of_a_request(self, served, protocol, kind, model, arrays):
        with connect(served, protocol) as server, pytest.raises(ServerError) as caught:
            server.infer(model, arrays)
        assert _said(kind) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("protocol", ["http", "grpc"])
    def test_of_bytes_with_another_type_than_said(self, served, protocol):
        with connect(served, protocol) as server:
            entry = server._module.InferInput("x", [1, 256], "FP16").set_data_from_numpy(self.HALF)
            wide = self.HALF.astype(np.float32).tobytes()
            if protocol == "grpc":
                entry._raw_content = wide
            else:
                entry._raw_data = wide
                entry._parameters["binary_data_size"] = len(wide)
            with pytest.raises(ServerError) as caught:
                server._call("infer", "half", "half", [entry])
        assert "has 1024 bytes where its shape and type need 512" in str(caught.value)
        assert _said("size") in str(caught.value)

    def test_of_classification(self, served):
        with connect(served, "http") as server:
            entry = server._module.InferInput("x", [1, 256], "FP16").set_data_from_numpy(self.HALF)
            wanted = server._module.InferRequestedOutput("y", class_count=2)
            with pytest.raises(ServerError) as caught:
                server._call("infer", "half", "half", [entry], outputs=[wanted])
        assert _said("classification") in str(caught.value)

    def test_of_fp16_by_json(self, served):
        with connect(served, "http") as server, pytest.raises(ServerError) as caught:
            server.infer("half", {"x": self.HALF}, as_json=True)
        assert "FP16 cannot go by JSON" in str(caught.value)

    def test_of_fp16_outputs_by_json(self, served):
        ids = np.ones((1, SEQUENCE), np.int32)
        with connect(served, "http") as server, pytest.raises(ServerError) as caught:
            server.infer("bert", {"input": ids}, ("logits",), as_json=True)
        assert "FP16 cannot go by JSON" in str(caught.value)

    @pytest.mark.parametrize("protocol", ["http", "grpc"])
    def test_of_time(self, served, protocol):
        with connect(served, protocol, timeout_s=0.3) as server, pytest.raises(ServerError) as caught:
            server.infer("slow", {"x": np.zeros((1, 4), np.float32)})
        assert "no answer within 0.3 s" in str(caught.value)

    @pytest.mark.parametrize("protocol", ["http", "grpc"])
    def test_of_the_wrong_port(self, served, protocol):
        other = served.server.http if protocol == "grpc" else served.server.grpc
        address = parse_address(f"{protocol}://{other}")
        with Server(address, timeout_s=5) as server, pytest.raises(ServerError) as caught:
            server.interface("half")
        assert f"that port does not speak {protocol}" in str(caught.value)


class TestCheck:
    @pytest.mark.parametrize("grpc", [False, True])
    def test_a_plan_within_its_tolerance(self, served, planner, grpc):
        place = served.server.grpc if grpc else served.server.http
        ran = planner(
            "triton", "check", place, "bert", "--plan", served.planned.folder, *(["--grpc"] if grpc else []),
            "--json", "-",
        )  # fmt: skip
        assert ran.exit_code == 0, ran.stderr
        data = json.loads(ran.stdout)
        assert (data["kind"], data["passed"], data["wire"]) == (
            "triton_check", True, "gRPC" if grpc else "HTTP binary",
        )  # fmt: skip
        assert data["outputs"]["logits"] == {"datatype": "FP16", "shape": [-1, 11]}
        assert data["diff"]["tolerances"] == ["cosine=0.999"]

    def test_more_rows_than_a_request_may_have_are_split(self, served, planner, tmp_path):
        rows = np.load(served.planned.data)["input"]
        np.savez(tmp_path / "many.npz", input=np.resize(rows, (90, SEQUENCE)))
        ran = planner(
            "triton", "check", served.server.http, "bert", "--reference", served.planned.model,
            "--inputs", tmp_path / "many.npz", "--tolerance", "cosine=0.999", "--json", "-",
        )  # fmt: skip
        assert ran.exit_code == 0, ran.stderr
        assert json.loads(ran.stdout)["requests"] == 3

    def test_beyond_the_tolerance_is_exit_1(self, served, planner):
        ran = planner(
            "triton",
            "check",
            served.server.http,
            "bert",
            "--plan",
            served.planned.folder,
            "--tolerance",
            "max_abs=1e-9",
        )
        assert ran.exit_code == 1
        assert "beyond tolerance" in ran.stdout

    def test_garbage_is_exit_1_without_a_tolerance(self, served, planner, tmp_path):
        # another model's answers: the reference's last axis is the same, its weights are not
        from dataclasses import replace

        import onnx

        from examples.bert_classifier import PRESETS, build_bert_classifier

        onnx.save(build_bert_classifier(replace(PRESETS["tiny"], seed=1)), tmp_path / "other.onnx")
        ran = planner(
            "triton", "check", served.server.http, "bert", "--reference", tmp_path / "other.onnx",
            "--inputs", served.planned.data,
        )  # fmt: skip
        assert ran.exit_code == 1, ran.stdout
        assert "GARBAGE" in ran.stdout

    def test_a_refusal_is_one_line_and_exit_2(self, served, planner):
        ran = planner(
            "triton", "check", served.server.http, "bert", "--plan", served.planned.folder, "--as-json",
        )  # fmt: skip
        assert ran.exit_code == 2
        assert ran.stderr.count("\n") == 1
        assert "FP16 cannot go by JSON" in ran.stderr

    def test_arrays_as_given_are_not_converted(self, served, planner):
        ran = planner(
            "triton", "check", served.server.http, "bert", "--reference", served.planned.model,
            "--inputs", served.planned.data, "--as-given",
        )  # fmt: skip
        assert ran.exit_code == 2
        assert "'input' was sent as INT64, the model takes INT32" in ran.stderr


class TestLoad:
    LEVELS = "1,11,21,31,41"

    def _run(self, served, planner, tmp_path, levels, *more):
        return planner(
            "triton", "load", served.server.grpc, "bert", "--against", "bert_baseline",
            "--plan", served.planned.folder, "--concurrency", levels, "--requests", "90", "--seconds", "5",
            "--json", tmp_path / "load.json", "--csv", tmp_path / "load.csv", "--html", tmp_path / "load.html", *more,
        )  # fmt: skip

    def _look(self, ran, tmp_path, levels, client):
        assert ran.exit_code == 0, ran.stderr
        data = json.loads((tmp_path / "load.json").read_text())
        assert data["client"] == client
        assert [(level["concurrency"], level["model"]) for level in data["levels"]] == [
            (at, name) for at in map(int, levels.split(",")) for name in ("bert", "bert_baseline")
        ]
        for level in data["levels"]:
            assert level["errors"] == 0
            assert level["p50_ms"] <= level["p90_ms"] <= level["p95_ms"] <= level["p99_ms"]
            # Little's law: what is under way is rate times latency
            under_way = level["requests_per_s"] * level["mean_ms"] / 1e3
            assert 0.5 * level["concurrency"] < under_way < 1.5 * level["concurrency"]
            assert level["server"]["compute_ms"] > 0
            # the server cannot have spent more on a request than the client waited for it
            assert level["server"]["queue_ms"] + level["server"]["compute_ms"] < 1.5 * level["mean_ms"]
        assert max(level["server"]["rows_per_execution"] for level in data["levels"]) > 1
        assert list(data["speedup"]) == levels.split(",")
        rows = list(csv.DictReader(io.StringIO((tmp_path / "load.csv").read_text())))
        assert [float(row["p95_ms"]) for row in rows] == [level["p95_ms"] for level in data["levels"]]
        page = (tmp_path / "load.html").read_text()
        assert page.count("<polyline") == 4
        assert "requests under way" in page
        return data

    def test_five_levels_by_asyncio(self, served, planner, tmp_path):
        before = metrics_of(served.server)
        ran = self._run(served, planner, tmp_path, self.LEVELS, "--client", "asyncio")
        data = self._look(ran, tmp_path, self.LEVELS, "tritonclient asyncio gRPC")
        assert all(level["requests"] == 90 for level in data["levels"])
        # the server's Prometheus metrics count what we say was sent (one more a worker warms up)
        name = 'nv_inference_request_success{model="bert",version="1"}'
        assert metrics_of(served.server)[name] - before[name] == 5 * 90 + (1 + 11 + 21 + 31 + 41)
        assert ran.stdout.count("times the throughput of bert_baseline") == 5

    def test_two_levels_by_perf_analyzer(self, served, planner, tmp_path, installation: Installation, monkeypatch):
        if not (installation.programs / "perf_analyzer").exists():
            pytest.skip("no perf_analyzer in the server's environment (make triton-server)")
        monkeypatch.setenv("PATH", f"{installation.programs}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("LD_LIBRARY_PATH", installation.environ["LD_LIBRARY_PATH"])
        ran = self._run(served, planner, tmp_path, "1,11", "--client", "perf_analyzer")
        self._look(ran, tmp_path, "1,11", "perf_analyzer")

    def test_a_report_renders_it_again(self, served, planner, tmp_path):
        ran = planner(
            "triton", "load", served.server.grpc, "half", "--inputs", self._half(tmp_path), "--concurrency", "2",
            "--requests", "20", "--json", tmp_path / "load.json", "--client", "asyncio",
        )  # fmt: skip
        assert ran.exit_code == 0, ran.stderr
        again = planner("report", tmp_path / "load.json")
        assert again.exit_code == 0
        assert again.stdout == ran.stdout

    def _half(self, tmp_path):
        np.savez(tmp_path / "half.npz", x=np.ones((4, 256), np.float16))
        return tmp_path / "half.npz"
