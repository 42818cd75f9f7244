"""One model through one exporter: its ONNX file, and a batch of inputs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Inputs = dict[str, np.ndarray]
OPSETS = {"torchscript": 17, "dynamo": 18}


class NotExportedError(Exception):
    """The exporter does not take the model, or is not installed."""


def names(exporters: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """(architecture, exporter) of the whole table."""
    found = [(name, "torchscript") for name in MODULE_NAMES]
    found += [(name, "dynamo") for name in ON_DYNAMO]
    found += [(name, "skl2onnx") for name in SKLEARN]
    return [(name, exporter) for name, exporter in found if not exporters or exporter in exporters]


def export(name: str, exporter: str, path: Path) -> Inputs:
    """Write a model, and give the inputs that go with it.

    Raises:
      NotExportedError: see there.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    wanted = "skl2onnx" if exporter == "skl2onnx" else "torch"
    if importlib.util.find_spec(wanted) is None:
        raise NotExportedError(f"{wanted} is not installed")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torch prints its whole graph where it fails
            return _sklearn(name, path) if exporter == "skl2onnx" else _torch(name, exporter, path)
    except NotExportedError:
        raise
    except Exception as failure:  # whatever an exporter raises: the row says so
        said = str(failure).strip().splitlines() or [""]
        raise NotExportedError(f"{type(failure).__name__}: {said[0][:160]}") from failure


def _torch(name: str, exporter: str, path: Path) -> Inputs:
    import torch

    from evidence.exporters.modules import MODULES

    torch.manual_seed(0)
    module, inputs = MODULES[name]()
    module = module.eval()
    given = tuple(inputs.values())
    with torch.no_grad():
        found = module(*given)
        outputs = [f"y{at}" for at in range(len(found) if isinstance(found, tuple) else 1)]
        options: dict[str, Any] = {"input_names": list(inputs), "output_names": outputs}
        if exporter == "torchscript":
            free = {key: {0: "batch"} for key, value in inputs.items() if value.shape[0] > 1}
            torch.onnx.export(
                module, given, str(path), opset_version=OPSETS[exporter], dynamo=False, dynamic_axes=free, **options
            )
        else:
            torch.onnx.export(
                module, given, str(path), opset_version=OPSETS[exporter], dynamo=True, external_data=False,
                verbose=False, **options,
            )  # fmt: skip
    taken = {value.name for value in onnx.load(str(path), load_external_data=False).graph.input}
    return {key: value.numpy() for key, value in inputs.items() if key in taken}


def _sklearn(name: str, path: Path) -> Inputs:
    from skl2onnx import to_onnx

    generator = np.random.default_rng(0)
    rows = (generator.standard_normal((200, 12)) * 10.0 ** generator.integers(-2, 4, 12)).astype(np.float32)
    classes = (rows[:, 0] / np.abs(rows[:, 0]).max() + rows[:, 1] / np.abs(rows[:, 1]).max() > 0).astype(int)
    model = SKLEARN[name]().fit(rows, classes)
    made = to_onnx(model, rows[:1], options={"zipmap": False} if hasattr(model, "predict_proba") else None)
    onnx.save(made, str(path))
    return {made.graph.input[0].name: rows[:32]}


def _pipeline(*steps: Any) -> Any:
    from sklearn.pipeline import make_pipeline

    return make_pipeline(*steps)


def _mlp() -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    return _pipeline(StandardScaler(), MLPClassifier((16, 16), max_iter=200, random_state=0))


def _logistic() -> Any:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    return _pipeline(StandardScaler(), PolynomialFeatures(2), PCA(8), LogisticRegression())


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=10, random_state=0)


def _mixture() -> Any:
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.preprocessing import StandardScaler

    return _pipeline(StandardScaler(), GaussianProcessClassifier(random_state=0))


SKLEARN: dict[str, Callable[[], Any]] = {
    "mlp": _mlp, "logistic": _logistic, "boosting": _boosting, "gaussian_process": _mixture,
}  # fmt: skip
MODULE_NAMES = (
    "bert", "roberta", "deberta", "albert", "mobilebert", "modernbert", "gpt2", "llama", "qwen3", "gemma2", "phi",
    "bloom", "t5", "whisper", "wav2vec2", "hifigan", "vit", "swin", "segformer", "convnextv2", "beit", "dinov2",
    "mobilevit", "clip_vision", "rt_detr", "detr", "efficientvit", "levit", "mixer", "efficientnet", "maxvit",
    "resnet", "mobilenet", "segmentation", "unet", "style", "recommender", "graph_attention", "log_mel", "warp",
    "sine_source", "cached_decoder",
)  # fmt: skip
"""The keys of `modules.MODULES`, which needs torch to be asked."""

ON_DYNAMO = (
    "bert", "deberta", "llama", "gpt2", "t5", "whisper", "swin", "convnextv2", "rt_detr", "efficientvit", "resnet",
    "unet", "style", "log_mel", "warp", "cached_decoder",
)  # fmt: skip
"""Those given to torch's new exporter too, which takes ten seconds a model: one a kind."""
