"""Where the fuzzer begins: small valid models and files, made here, and the few that were found to matter."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

MOST_BYTES = 20_000
CORPUS = Path(__file__).with_name("corpus")
"""Inputs that once broke something; each is run by the tests too."""


def models() -> list[onnx.ModelProto]:
    """The graphs of the rule book's cases, bodies and functions among them."""
    from precision_planner.rules import load_rulebook
    from precision_planner.rules.engine.cases import case_model
    from precision_planner.rules.language.schema import read_cases

    found = []
    for rule in load_rulebook():
        for case in read_cases(rule)[:2]:
            proto = case_model(rule, case).to_proto()
            if proto.ByteSize() < MOST_BYTES:
                found.append(proto)
    return found


def texts(kind: str) -> Iterator[bytes]:
    """Valid files of a kind: 'rule', 'npz', 'polygraphy', 'layers', 'profile', 'report', 'plan', 'script', 'recipe'."""
    root = Path(__file__).resolve().parent.parent
    if kind == "rule":
        yield from (path.read_bytes() for path in sorted((root / "rules").glob("*.yaml")))
    elif kind == "npz":
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, x=np.arange(6, dtype=np.float32).reshape(2, 3), y=np.array(["a"]))
            yield file.getvalue()
        file = io.BytesIO()
        np.save(file, np.arange(6, dtype=np.int64))
        yield file.getvalue()
    elif kind == "polygraphy":
        yield json.dumps([{"x": {"polygraphy_class": "ndarray", "array": "k05VTVBZ"}}]).encode()
        yield b'{"lst": [["r", [{"outputs": {"values": {"y": {"values": [1, 2]}}}}]]]}'
    elif kind == "layers":
        yield (
            b'{"Layers": [{"Name": "a + b", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", '
            b'"Format/Datatype": '
            b'"Row major linear FP16 format"}], "Outputs": [{"Name": "y", "Datatype": "Half"}], "TacticName": "h884", '
            b'"Metadata": "[ONNX Layer: a]\\u001e[ONNX Layer: b]"}]}'
        )
        yield (
            b"Layers:\nName: k, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,2], Format/Datatype: Half }], "
            b"Outputs: [ { Name: y, Dimensions: [1,2], Datatype: Half }], TacticName: 0x0, StreamId: 0, "
            b"Metadata: [ONNX Layer: a]\n"
        )
    elif kind == "profile":
        yield b'[{"count": 3}, {"name": "a", "averageMs": 0.5}]'
    elif kind in ("report", "plan"):
        yield b'{"kind": "analysis", "schema_version": 1, "findings": [], "precision": "fp16", "model": {}}'
        yield b'{"schema_version": 1, "target": "tensorrt-11", "precision": "fp16", "nodes": [], "profiles": {}}'
    elif kind == "script":
        yield (
            b"from polygraphy.backend.trt import *\nL = ['a', 'b']\ndef load(n):\n  for l in n:\n    if l.name in L:\n"
            b"      l.precision = trt.float32\n      l.set_output_type(0, trt.float32)\nCreateConfig(fp16=True)\n"
        )
    elif kind == "recipe":
        yield b"trtexec --onnx=m.onnx --fp16 --layerPrecisions=a:fp32 --minShapes=x:1x3 --precisionConstraints=obey"
        yield b"polygraphy convert m.onnx --fp16 --trt-min-shapes x:[1,3] --convert-to trt -o m.engine"
    for path in sorted(CORPUS.glob(f"{kind}-*")):
        yield path.read_bytes()


KINDS = ("rule", "npz", "polygraphy", "layers", "profile", "report", "plan", "script", "recipe")


def found_models() -> Iterator[bytes]:
    """Models that once broke something."""
    for path in sorted(CORPUS.glob("model-*")):
        yield path.read_bytes()


def beginnings(kind: str) -> list[bytes]:
    """What fuzzing of "model" or "text" begins with; a text's first byte says of which of `KINDS` it is."""
    if kind == "model":
        return [*(proto.SerializeToString() for proto in models()), *found_models()]
    return [bytes([at]) + text for at, name in enumerate(KINDS) for text in texts(name)]
