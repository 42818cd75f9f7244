"""Two packages that own one folder: onnxruntime beside another kind of it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from precision_planner._extras import require
from precision_planner.cli.main import main
from precision_planner.errors import InstallationError
from tests.writing.test_writing import small_model


def install(name: str, folder: Path) -> None:
    """What pip leaves of a distribution for others to find."""
    found = folder / f"{name.replace('-', '_')}-1.23.0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.23.0\n")


def test_both_onnxruntimes_are_refused_with_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have = next(name for name in ("onnxruntime", "onnxruntime-gpu") if list(metadata.distributions(name=name)))
    other = "onnxruntime-gpu" if have == "onnxruntime" else "onnxruntime"
    words = ["rewrite", str(small_model(tmp_path / "m.onnx")), "-o", str(tmp_path / "r.onnx")]
    install(other, tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then install the extra cpu or gpu" in line


def test_any_other_kind_of_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("onnxruntime-openvino", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InstallationError, match="onnxruntime-openvino are both installed"):
        require("onnxruntime", extra="cpu", purpose="running the model")
