"""`planner check`, planner.toml, every --json and its report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.cli.main import main
from precision_planner.reporting.check import check_report, schema_of
from precision_planner.reporting.html import KINDS


def scaled(path: Path, factor: float) -> Path:
    """x times a factor and back, through a product: past 65504 in between where the factor is large."""
    weights = [numpy_helper.from_array(np.eye(4, dtype=np.float32) * value, name) for name, value in
               (("up", factor), ("down", 1.0 / factor))]  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["h"], name="up_"),
        helper.make_node("MatMul", ["h", "down"], ["y"], name="down_"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def inputs(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.linspace(1, 4, 12, dtype=np.float32).reshape(3, 4))
    return str(tmp_path / "data.npz")


def run(capsys, *words: object) -> tuple[int, dict]:
    code = main([*map(str, words), "--json", "-"])
    said = capsys.readouterr()
    assert code in (0, 1), said.err
    return code, json.loads(said.out)


class TestCheck:
    def test_a_harmless_model_passes(self, tmp_path, inputs, capsys):
        code, data = run(
            capsys, "check", scaled(tmp_path / "m.onnx", 2.0), "--inputs", inputs, "--tolerance", "rel_l2=1e-2"
        )
        assert (code, data["passed"]) == (0, True)
        assert [gate["name"] for gate in data["models"][0]["gates"]] == ["loads", "findings", "answers"]

    def test_answers_beyond_the_tolerance_fail(self, tmp_path, inputs, capsys):
        # 4e5 is infinite in FP16
        model = scaled(tmp_path / "m.onnx", 1e5)
        code, data = run(capsys, "check", model, "--inputs", inputs, "--fail-on", "never", "--tolerance", "rel_l2=1e-2")
        assert code == 1
        assert {gate["name"]: gate["passed"] for gate in data["models"][0]["gates"]}["answers"] is False

    def test_findings_fail_at_their_severity(self, tmp_path, inputs, capsys):
        model = scaled(tmp_path / "m.onnx", 1e5)
        code, data = run(capsys, "check", model, "--inputs", inputs, "--fail-on", "warning")
        assert code == 1
        assert data["models"][0]["gates"][1]["passed"] is False
        assert run(capsys, "check", model, "--inputs", inputs, "--fail-on", "never")[0] == 0

    def test_a_plan_is_the_answer(self, tmp_path, inputs, capsys):
        model = scaled(tmp_path / "m.onnx", 1e5)
        plan = tmp_path / "plan"
        assert main(["plan", str(model), "-o", str(plan), "--inputs", inputs, "--tolerance", "rel_l2=1e-2"]) == 0
        capsys.readouterr()
        code, data = run(capsys, "check", model, "--plan", plan)
        assert code == 0
        assert "rel_l2=0.01" in data["models"][0]["gates"][2]["said"]
        assert run(capsys, "check", model, "--plan", plan, "--tolerance", "max_abs=1e-12")[0] == 1

    def test_one_that_does_not_load_fails_and_the_others_are_asked(self, tmp_path, inputs, capsys):
        (tmp_path / "broken.onnx").write_bytes(b"no model")
        code, data = run(capsys, "check", tmp_path / "broken.onnx", scaled(tmp_path / "m.onnx", 2.0))
        assert code == 1
        assert [model["passed"] for model in data["models"]] == [False, True]


class TestDefaults:
    def test_are_read_from_the_nearest_file(self, tmp_path, inputs, capsys, monkeypatch):
        model = scaled(tmp_path / "m.onnx", 1e5)
        (tmp_path / "planner.toml").write_text(
            '[check]\nfail-on = "never"\ntolerance = ["rel_l2=1e-2"]\ninputs = "data.npz"\n'
        )
        (tmp_path / "below").mkdir()
        (tmp_path / ".git").mkdir()
        monkeypatch.chdir(tmp_path / "below")
        code, data = run(capsys, "check", model)
        assert code == 1  # the tolerance, on the file's inputs
        assert data["models"][0]["gates"][1]["passed"] is True
        # what is said wins: a harmless model passes by the file's bound, and not by a tighter one
        harmless = scaled(tmp_path / "m2.onnx", 3.0)
        assert run(capsys, "check", harmless)[0] == 0
        assert run(capsys, "check", harmless, "--tolerance", "max_abs=1e-12")[0] == 1

    def test_one_above_the_repository_is_none_of_ours(self, tmp_path, capsys, monkeypatch):
        (tmp_path / "planner.toml").write_text("[chek]\n")
        (tmp_path / "repository" / ".git").mkdir(parents=True)
        for folder in (tmp_path / "repository", tmp_path / "elsewhere"):
            folder.mkdir(exist_ok=True)
            monkeypatch.chdir(folder)
            assert main(["fp16", "1"]) == 0

    @pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
    def test_another_users_is_none_of_ours(self, tmp_path, monkeypatch):
        (tmp_path / "planner.toml").write_text("[chek]\n")
        os.chown(tmp_path / "planner.toml", 12345, 12345)
        monkeypatch.chdir(tmp_path)
        assert main(["fp16", "1"]) == 0

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('[check]\nfail_on = "never"\n', r"[check] has no option 'fail_on'"),
            ("[chek]\n", "[chek] is no command"),
            ("check = 1\n", "'check' is no table"),
            ("[check\n", "cannot be read"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path, capsys, monkeypatch, text, said):
        (tmp_path / "planner.toml").write_text(text)
        monkeypatch.chdir(tmp_path)
        assert main(["check", "m.onnx"]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1


class TestEveryJson:
    @pytest.fixture
    def made(self, tmp_path, inputs, capsys, monkeypatch):
        """Kind -> a file that a command wrote."""
        monkeypatch.chdir(tmp_path)
        model = str(scaled(Path("m.onnx"), 2.0))
        lines = {
            "analysis": ["analyze", model],
            "rewrite": ["rewrite", model, "-o", "r.onnx", "--inputs", inputs],
            "plan": ["plan", model, "-o", "plan", "--inputs", inputs],
            "diff": ["diff", model, "r.onnx", "--inputs", inputs],
            "check": ["check", model],
            "migration": ["migrate", f"trtexec --onnx={model} --fp16"],
            "rules": ["rules"],
        }
        for kind, words in lines.items():
            assert main([*words, "--json", f"{kind}.json"]) == 0, kind
        capsys.readouterr()
        assert main(["fp16", "0.1", "--json"]) == 0
        Path("fp16.json").write_text(capsys.readouterr().out)
        return {kind: Path(f"{kind}.json") for kind in (*lines, "fp16")}

    def test_says_what_it_is_follows_its_schema_and_renders(self, made, capsys):
        for kind, path in made.items():
            data = json.loads(path.read_text())
            assert data["schema_version"] == 1, kind
            assert data["kind"] == ("precision_plan" if kind == "plan" else kind)
            assert check_report(data) == kind
            assert main(["report", str(path)]) == 0
            assert capsys.readouterr().out.strip(), kind
            page = path.with_suffix(".html")
            assert main(["report", str(path), "--html", str(page)]) == 0
            assert "</html>" in page.read_text()

    def test_every_kind_has_a_schema(self):
        for kind in KINDS:
            assert schema_of(kind)["required"], kind

    def test_a_broken_one_is_refused(self, tmp_path, capsys):
        (tmp_path / "x.json").write_text(json.dumps({"schema_version": 1, "kind": "fp16"}))
        assert main(["report", str(tmp_path / "x.json")]) == 2
        assert "'values' is a required property" in capsys.readouterr().err


class TestBits:
    @pytest.mark.parametrize("bits", [0x0000, 0x8000, 0x0001, 0x03FF, 0x4248, 0x7BFF, 0x7C00, 0xFC00, 0x7E01])
    def test_stand_for_what_numpy_says(self, bits, capsys):
        import ml_dtypes

        assert main(["fp16", "--bits", "--json", hex(bits)]) == 0
        (row,) = json.loads(capsys.readouterr().out)["values"]
        for name, dtype in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
            value = float(np.array([bits], np.uint16).view(dtype)[0])
            assert row[name]["hex"] == f"0x{bits:04x}"
            decoded = float(row[name]["decoded"])
            assert decoded == value or (decoded != decoded and value != value)

    @pytest.mark.parametrize("text", ["4248h", "0x14248", "-1", "1.5"])
    def test_of_something_else_are_refused(self, text, capsys):
        assert main(["fp16", "--bits", text]) == 2
        assert "write it as 0x4248" in capsys.readouterr().err
