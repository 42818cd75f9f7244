"""Real architectures through both of torch's exporters: norms found = norms the module executed, results unchanged.

Random weights, small sizes; forward hooks count what ran. Slow: the new exporter takes seconds a model.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.patterns import NORMALIZATIONS, find_patterns
from precision_planner.transforms import fuse_verified

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    # torch and transformers warn of what they themselves deprecate while exporting
    pytest.mark.filterwarnings("ignore"),
]

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
}
LLM: dict[str, Any] = {**TEXT, "num_key_value_heads": 2, "use_cache": False}


def _swin(t: Any) -> Any:
    return t.SwinModel(
        t.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    )


def _convnext(t: Any) -> Any:
    return t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2))


ARCHITECTURES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "bert": (lambda t: t.BertModel(t.BertConfig(**TEXT)), "text"),
    "distilbert": (
        lambda t: t.DistilBertModel(t.DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64)),
        "text",
    ),
    "deberta": (lambda t: t.DebertaModel(t.DebertaConfig(**TEXT)), "text"),
    "gpt2": (
        lambda t: t.GPT2Model(t.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, use_cache=False)),
        "text",
    ),
    "t5": (
        lambda t: t.T5EncoderModel(t.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)),
        "text",
    ),
    "llama": (lambda t: t.LlamaModel(t.LlamaConfig(**LLM)), "text"),
    "qwen3": (lambda t: t.Qwen3Model(t.Qwen3Config(**LLM, head_dim=8)), "text"),
    "gemma2": (lambda t: t.Gemma2Model(t.Gemma2Config(**LLM, head_dim=8)), "text"),
    "cohere": (lambda t: t.CohereModel(t.CohereConfig(**LLM)), "text"),
    "vit": (
        lambda t: t.ViTModel(
            t.ViTConfig(**{k: v for k, v in TEXT.items() if k != "vocab_size"}, image_size=32, patch_size=8)
        ),
        "image",
    ),
    "swin": (_swin, "image"),
    "convnext": (_convnext, "image"),
}
UNEXPORTABLE = {
    ("cohere", "torchscript", 13): "torch's own internal assertion fails in shape inference",
    ("cohere", "torchscript", 17): "torch's own internal assertion fails in shape inference",
    ("swin", "torchscript", 13): "scaled_dot_product_attention needs opset 14",
    ("swin", "dynamo", 18): "torch.export cannot trace its window arithmetic",
}
EXPORTS = [("torchscript", 13), ("torchscript", 17), ("dynamo", 18)]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _module(name: str) -> tuple[Any, Any]:
    import torch
    import transformers

    torch.manual_seed(0)
    make, kind = ARCHITECTURES[name]

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = make(transformers)

        def forward(self, x: Any) -> Any:
            more = {"attention_mask": torch.ones_like(x)} if x.dtype == torch.int64 else {}
            return self.m(x, return_dict=False, **more)[0]

    module = Wrapped().eval()
    if name not in ("deberta", "convnext", "swin"):
        module.m.set_attn_implementation("eager")
    for parameter in module.parameters():
        if parameter.ndim == 1:  # weights of 1 and biases of 0 would hide a wrong affine
            parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randint(3, 90, (2, 12)) if kind == "text" else torch.randn(1, 3, 32, 32)
    return module, x


def _executed(module: Any, x: Any) -> tuple[Counter[str], np.ndarray]:
    """How many layer and RMS normalizations ran; what the module gave."""
    import torch

    ran: Counter[str] = Counter()

    def count(layer: Any, *_: object) -> None:
        kind = "rms_normalization" if "RMS" in type(layer).__name__ or type(layer).__name__ == "T5LayerNorm" else ""
        ran[kind or "layer_normalization"] += 1

    hooks = []
    for layer in module.modules():
        name = type(layer).__name__
        # ConvNext's channels-first norm is a LayerNorm that permutes: it calls no other module
        if "Norm" in name and not list(layer.children()):
            hooks.append(layer.register_forward_hook(count))
    with torch.no_grad():
        result = module(x).numpy()
    for hook in hooks:
        hook.remove()
    return ran, result


def _export(module: Any, x: Any, exporter: str, opset: int) -> onnx.ModelProto:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(
                module, (x,), opset_version=opset, dynamo=True, input_names=["x"], verbose=False
            )
            assert program is not None
            return program.model_proto
        buffer = io.BytesIO()
        torch.onnx.export(module, (x,), buffer, opset_version=opset, dynamo=False, input_names=["x"])
        return onnx.load_from_string(buffer.getvalue())


@pytest.mark.parametrize(("exporter", "opset"), EXPORTS)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_norms_found_are_norms_executed(name: str, exporter: str, opset: int) -> None:
    module, x = _module(name)
    ran, expected = _executed(module, x)
    reason = UNEXPORTABLE.get((name, exporter, opset))
    if reason is not None:
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch raises; a success must be seen
            _export(module, x, exporter, opset)
        return
    model = Model.load(_export(module, x, exporter, opset))
    matches = find_patterns(model, kinds=NORMALIZATIONS)
    assert all(match.proven for match in matches), [match.reason for match in matches]
    found = Counter(match.kind for match in matches)
    assert found == _as_exported(ran, name)
    feeds = {"x": x.numpy()}
    result = fuse_verified(model, matches, inputs=[feeds])
    decomposed = [m for m in matches if m.form == "decomposed" and m.kind == "layer_normalization"]
    assert len(result.fused) == len(decomposed), [reason for _, reason in result.islands]
    assert result.verification["passed"] is True
    (before,), (after,) = Session(model).run(feeds).values(), Session(result.model).run(feeds).values()
    np.testing.assert_allclose(before, expected, atol=2e-5)
    np.testing.assert_allclose(after, before, atol=1e-5)


def _as_exported(ran: Counter[str], name: str) -> Counter[str]:
    """The pooler's norm of ConvNext runs and is not exported, as only the first output is asked for."""
    return ran - Counter(layer_normalization=1) if name == "convnext" else ran
