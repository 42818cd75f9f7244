"""What once broke something is answered or refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
import pytest

from precision_planner.analysis import analyze
from precision_planner.errors import InputsError, PlannerError
from precision_planner.model import Model
from precision_planner.model.arrays import read_npy
from precision_planner.model.inputs import load_inputs
from precision_planner.rewriting import rewrite

CORPUS = Path(__file__).resolve().parent.parent / "fuzz" / "corpus"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("model-*")), ids=lambda path: path.name)
def test_models(path: Path) -> None:
    proto = onnx.ModelProto.FromString(path.read_bytes())
    with contextlib.suppress(PlannerError):  # a refusal is an answer too; anything else fails here
        model = Model.load(proto)
        analyze(model).to_dict()
        rewrite(model, verify=False)
    with contextlib.suppress(PlannerError):
        load_inputs(None, Model.load(proto)).first()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("npz-*")), ids=lambda path: path.name)
def test_arrays(path: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(path.read_bytes()[1:])
    with pytest.raises(InputsError, match="cannot be read as"):
        read_npy(tmp_path / "x.npy")
