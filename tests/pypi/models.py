"""Models that people install from PyPI, read out of their wheels, with inputs of the shapes that they are used with."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(os.environ.get("PLANNER_MODELS") or Path(__file__).parents[2] / ".models")
"""Where `make models` puts the wheels of tests/requirements-models.txt."""

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Published:
    """One model of a wheel.

    Attributes:
      wheel: how the file's name begins.
      member: how the model's name ends, inside it.
      feeds: makes one batch.
    """

    wheel: str
    member: str
    feeds: Callable[[np.random.Generator], Feeds]

    @property
    def name(self) -> str:
        """For test ids."""
        return self.member.rsplit("/", 1)[-1].removesuffix(".onnx")

    def unpack(self, folder: Path) -> Path:
        """The model as a file; skips the test where its wheel is not there."""
        wheels = sorted(FOLDER.glob(f"{self.wheel}-*.whl"))
        if not wheels:
            pytest.skip(f"no wheel of {self.wheel} in {FOLDER}; make models fetches it")
        with zipfile.ZipFile(wheels[-1]) as archive:
            [member] = [name for name in archive.namelist() if name.endswith(self.member)]
            path = folder / f"{self.name}.onnx"
            path.write_bytes(archive.read(member))
        return path


def image(name: str, *shape: int, scale: float = 1.0) -> Callable[[np.random.Generator], Feeds]:
    """Smooth values of 0 to `scale`, as a picture has, rather than noise."""

    def feeds(rng: np.random.Generator) -> Feeds:
        *lead, height, width = shape
        coarse = rng.random((*lead, height // 8, width // 8))
        return {name: (np.kron(coarse, np.ones((8, 8))) * scale).astype(np.float32)}

    return feeds


def speech(*states: tuple[str, int], rate: bool = False) -> Callable[[np.random.Generator], Feeds]:
    """A frame of 576 samples and the state of a stream that begins."""

    def feeds(rng: np.random.Generator) -> Feeds:
        wave = 0.3 * np.sin(np.arange(576) * 0.08) + 0.02 * rng.standard_normal(576)
        found: Feeds = {"input": wave[None].astype(np.float32)}
        found.update({name: np.zeros((size, 1, 128), np.float32) for name, size in states})
        return {**found, "sr": np.array(16000)} if rate else found

    return feeds


def music(rng: np.random.Generator) -> Feeds:
    """Two seconds of two notes."""
    time = np.arange(43844) / 22050
    wave = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 660 * time)
    return {"serving_default_input_2:0": wave[None, :, None].astype(np.float32)}


def text(rng: np.random.Generator) -> Feeds:
    """Bytes of a file, as Magika takes them: 2048, 256 where there are none."""
    tokens = np.full((1, 2048), 256, np.int32)
    tokens[0, :600] = rng.integers(32, 127, 600)
    return {"bytes": tokens}


STATE = ("state", 2)
MODELS = (
    Published("rapidocr_onnxruntime", "ch_PP-OCRv4_det_infer.onnx", image("x", 1, 3, 96, 160)),
    Published("rapidocr_onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", image("x", 1, 3, 48, 160)),
    Published("rapidocr_onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", image("x", 1, 3, 48, 192)),
    Published("nudenet", "320n.onnx", image("images", 1, 3, 320, 320)),
    Published("magika", "standard_v3_3/model.onnx", text),
    Published("ddddocr", "common_old.onnx", image("input1", 1, 1, 64, 160)),
    Published("ddddocr", "common_det.onnx", image("images", 1, 3, 416, 416, scale=255.0)),
    Published("basic_pitch", "nmp.onnx", music),
    Published("silero_vad", "silero_vad.onnx", speech(STATE, rate=True)),
    Published("silero_vad", "silero_vad_16k_op15.onnx", speech(STATE, rate=True)),
    Published("silero_vad", "silero_vad_16k_sequence.onnx", speech(("h", 1), ("c", 1))),
    Published("silero_vad", "silero_vad_half.onnx", speech(STATE)),
    Published("silero_vad", "silero_vad_op18_ifless.onnx", speech(STATE, rate=True)),
    Published("silero_vad", "silero_vad_openvino_16k.onnx", speech(STATE)),
)
