"""Class labels: in config.pbtxt only where Triton can use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from precision_planner.errors import OutputError
from precision_planner.serving.tensors import HALF, Interface, ServedTensor


@dataclass(frozen=True)
class Labels:
    """Label files of a model.

    Attributes:
      config: output -> file, of those that config.pbtxt names.
      lines: file -> labels, of all of them: clients read the others.
      warnings: what does not work, and what to do.
    """

    config: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_labels(given: Sequence[str], interface: Interface) -> Labels:
    """Read `FILE` or `OUTPUT=FILE`, one label a line.

    A file without an output's name is for the one output (or, where more have so many values, the first) whose last
    axis has as many values as there are labels.

    Raises:
      OutputError: a file that is missing or does not fit its output.
    """
    config: dict[str, str] = {}
    lines: dict[str, tuple[str, ...]] = {}
    warnings = []
    outputs = {tensor.name: tensor for tensor in interface.outputs}
    for text in given:
        name, equals, file = text.partition("=")
        path = Path(file if equals else text)
        labels = _read(path)
        output = _output(name if equals else "", labels, outputs, path)
        place = "labels.txt" if len(given) == 1 else f"labels-{len(lines)}.txt"
        lines[place] = labels
        if output.wire in HALF:
            warnings.append(
                f"output '{output.name}' is {output.wire}, and Triton's classification (class_count) works on FP32 "
                f"only: {place} lies beside the config for clients, which take the argmax themselves; or plan with "
                f"--io-types low=<the other tensors> to keep '{output.name}' in FP32"
            )
        else:
            config[output.name] = place
    return Labels(config, lines, tuple(warnings))


def _read(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise OutputError(f"the labels {path} cannot be read ({error}); give a text file, one label a line") from None


def _output(name: str, labels: Sequence[str], outputs: Mapping[str, ServedTensor], path: Path) -> ServedTensor:
    def size(tensor: ServedTensor) -> object:
        return tensor.shape[-1] if tensor.shape else None

    if not name:
        fitting = [tensor for tensor in outputs.values() if size(tensor) == len(labels)]
        if fitting:
            return fitting[0]
        sizes = ", ".join(f"{tensor.name}: {size(tensor)}" for tensor in outputs.values())
        raise OutputError(f"{path} has {len(labels)} labels, which is no output's number of values ({sizes})")
    if name not in outputs:
        raise OutputError(f"--labels {name}={path}: no output is called '{name}'; there are {', '.join(outputs)}")
    tensor = outputs[name]
    if isinstance(size(tensor), int) and size(tensor) != len(labels):
        raise OutputError(f"{path} has {len(labels)} labels, output '{name}' has {size(tensor)} values")
    return tensor
