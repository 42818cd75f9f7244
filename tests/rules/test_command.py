"""`planner rules`, end to end."""

from __future__ import annotations

import json

import pytest

from precision_planner.cli.main import main


def run(capsys, *arguments):
    code = main(["rules", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_it_lists_every_rule(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    for rule_id in ("LN001", "WT001", "RG001", "AMP002"):
        assert rule_id in out
    assert "categories for selectors: " in out


def test_it_explains_one_in_any_case(capsys):
    code, out, _ = run(capsys, "ln001")
    assert code == 0
    parts = ["LN001: Replace a decomposed LayerNorm", "## When", "## What it does", "becomes", "LayerNormalization(x"]
    for part in [*parts, "https://github.com/NVIDIA/TensorRT/issues/2564"]:
        assert part in out


def test_json_alone_on_stdout(capsys):
    code, out, err = run(capsys, "QK001", "--json", "-")
    (rule,) = json.loads(out)["rules"]
    assert (code, rule["id"], rule["needs_data"], err) == (0, "QK001", True, "")


def test_a_tag_lists_its_rules(capsys):
    code, out, _ = run(capsys, "mask", "--json", "-")
    assert code == 0
    assert {rule["id"] for rule in json.loads(out)["rules"]} == {"MK001", "MK002", "MK003", "IN001"}


def test_an_unknown_id_is_one_line_with_the_nearest(capsys):
    code, out, err = run(capsys, "LN01")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "did you mean LN001" in err


def test_new_then_test_then_a_broken_case(capsys, tmp_path):
    folder = tmp_path / "mine"
    code, out, _ = run(capsys, "--new", "XX001", folder)
    assert (code, out.startswith("wrote ")) == (0, True)
    code, out, _ = run(capsys, "--test", folder)
    assert (code, out.splitlines()[-1]) == (0, "3 cases of 1 rules, 0 failed")
    path = folder / "XX001.yaml"
    path.write_text(path.read_text().replace("x: [11, 1, 0]", "x: [11.5, 1, 0]"))
    code, out, _ = run(capsys, "--test", folder)
    assert code == 1
    line = path.read_text().splitlines().index("  - name: exp(11) fits") + 1
    assert f"{path}:{line}: fires on Exp(y): Exp Exp(y) reaches 9.872e+04" in out  # exp(11.5) = 98715.77
    code, out, _ = run(capsys, "--rules", folder, "--json", "-")
    assert "XX001" in {rule["id"] for rule in json.loads(out)["rules"]}


def test_a_broken_file_is_one_line_with_its_place(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("id: XX001\nid: XX002\n")
    code, _, err = run(capsys, "--test", tmp_path)
    assert code == 2
    assert err == f"planner: error: {tmp_path / 'a.yaml'}:2: the key 'id' is given twice (first in line 1)\n"


@pytest.mark.slow
def test_our_own_rules_pass_with_the_planners_own_calibration_and_simulation(capsys):
    from precision_planner._resources import rulebook_dir

    code, out, _ = run(capsys, "--test", rulebook_dir(), "--json", "-")
    assert code == 0, [case for case in json.loads(out)["cases"] if case["failures"]]
