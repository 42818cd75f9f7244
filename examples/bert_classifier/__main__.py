"""``python -m examples.bert_classifier OUT.onnx --variant massive``: write a sample model, and inputs."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from .build import build_bert_classifier, reference_forward
from .spec import PRESETS, BertSpec
from .tokens import sample_inputs

SIZES = ("layers", "hidden", "heads", "intermediate", "vocabulary", "positions", "sequence", "seed", "opset")
EXTERNAL_FROM = 2_000_000_000
"""Bytes of weights from which the file gets a data file beside it; protobuf ends at 2 GiB."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.bert_classifier", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    parser.add_argument("--variant", choices=list(PRESETS), default="tiny", help="the preset to start from")
    for size in SIZES:
        parser.add_argument(f"--{size}", type=int, metavar="N")
    parser.add_argument("--weights", choices=["random", "fresh", "minilm"])
    parser.add_argument("--hard", choices=["plain", "massive", "ffn"], help="the hard variant")
    parser.add_argument("--style", choices=["torchscript", "dynamo"])
    parser.add_argument("--external-data", action="store_true", help="weights in OUT.onnx.data")
    parser.add_argument("--inputs", type=Path, metavar="IN.npz", help="also write sample inputs")
    parser.add_argument("--expected", type=Path, metavar="REF.npz", help="also write the float64 answers to them")
    parser.add_argument("--rows", type=int, default=40, metavar="N", help="rows of the sample inputs")
    return parser.parse_args(arguments)


def make_spec(options: argparse.Namespace) -> BertSpec:
    """Return the preset with what the command line changes."""
    changes = {name: getattr(options, name) for name in (*SIZES, "weights", "style")}
    changes |= {"variant": options.hard}
    if options.style == "dynamo" and options.opset is None:
        changes["opset"] = 18
    return replace(PRESETS[options.variant], **{name: value for name, value in changes.items() if value is not None})


def main(arguments: list[str] | None = None) -> int:
    """Write what was asked for; a mistake in the arguments is one line on stderr and exit code 2."""
    options = parse(arguments)
    try:
        spec = make_spec(options)
        model = build_bert_classifier(spec)
    except (ValueError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    external = options.external_data or size >= EXTERNAL_FROM
    data = options.out.name + ".data"
    options.out.with_name(data).unlink(missing_ok=True)  # onnx appends to a data file that is there
    onnx.save(model, options.out, save_as_external_data=external, location=data if external else None)
    print(f"{options.out}: {len(model.graph.node)} nodes, opset {spec.opset}, {size / 1e6:.1f} MB of weights")
    inputs = sample_inputs(spec, rows=options.rows)
    if options.inputs:
        np.savez(options.inputs, **inputs)
        print(f"{options.inputs}: {options.rows} rows of {spec.sequence} tokens")
    if options.expected:
        np.savez(options.expected, **reference_forward(spec, inputs["input"]))
        print(f"{options.expected}: logits and probability in float64")
    return 0


if __name__ == "__main__":
    sys.exit(main())
