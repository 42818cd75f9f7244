"""The architectures: what TensorRT users deploy, in small, with random or outlier-seeded weights.

Each is a name and a function that gives (module, example input). Those of evidence/tensorrt86/validation, and one a
family of transformers' and timm's configurations beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from torch import nn

from evidence.tensorrt86.validation import architectures as a

Built = tuple[nn.Module, torch.Tensor]
TEXT = {**a.TEXT, "pad_token_id": 0}


def _text(model: str, pick: str | int = 0, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        config = getattr(t, f"{model}Config")(**{**TEXT, **options})
        module = getattr(t, f"{model}Model")(config)
        return a.First(a.spread(_eager(module)), pick), a.ids()

    return build


def _decoder(model: str, **options: Any) -> Callable[[], Built]:
    return _text(model, **{"num_key_value_heads": 2, "use_cache": False, **options})


def _image(
    model: str, suffix: str = "Model", pick: str | int = 0, size: int = 224, **options: Any
) -> Callable[[], Built]:
    def build() -> Built:
        config = getattr(t, f"{model}Config")(**options)
        module = a.spread(_eager(getattr(t, f"{model}{suffix}")(config)))
        return a.First(module, pick), a.image(2, size)

    return build


def _eager(module: Any) -> Any:
    try:
        return a.eager(module)
    except (ValueError, AttributeError):  # models without a choice of attention
        return module


def _timm(name: str, size: int = 224, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        import timm

        return a.spread(timm.create_model(name, pretrained=False, num_classes=100, **options)), a.image(2, size)

    return build


def _own(
    function: Callable[[], nn.Module], inputs: Callable[[], torch.Tensor], first: bool = True
) -> Callable[[], Built]:
    return lambda: (a.First(function()) if first else function(), inputs())


class Recommender(nn.Module):
    """DLRM in small: embeddings, pairwise products, two towers."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(1000, 64) for _ in range(8))
        self.bottom = nn.Sequential(nn.Linear(13, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(64 + 36, 256), nn.ReLU(), nn.Linear(256, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dense = self.bottom(torch.log1p(x[:, :13].abs()))
        ids = x[:, 13:21].abs().long() % 1000
        rows = torch.stack([dense, *(table(ids[:, i]) for i, table in enumerate(self.tables))], 1)
        products = rows @ rows.transpose(1, 2)
        at = torch.tril_indices(9, 9, -1)
        return self.top(torch.cat([dense, products[:, at[0], at[1]]], 1))  # type: ignore[no-any-return]


class GraphAttention(nn.Module):
    """Two layers of dense graph attention with a distance mask."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(2))
        self.s = nn.ModuleList(nn.Linear(128, 1) for _ in range(2))
        self.out = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distance = ((x[:, :, None, :3] - x[:, None, :, :3]) ** 2).sum(-1)
        for w, s in zip(self.w, self.s, strict=True):
            h = w(x)
            n = h.shape[1]
            pairs = torch.cat([h[:, :, None].expand(-1, -1, n, -1), h[:, None].expand(-1, n, -1, -1)], -1)
            scores = nn.functional.leaky_relu(s(pairs)[..., 0], 0.2)
            scores = torch.where(distance < 150, scores, torch.full_like(scores, -1e9))
            x = nn.functional.elu(torch.softmax(scores, -1) @ h)
        return self.out(x)  # type: ignore[no-any-return]


VIT = {**a.VISION}
SMALL = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}

ARCHITECTURES: dict[str, Callable[[], Built]] = {
    "bert": _own(a.bert, a.ids),
    "llama": _own(a.llama, a.ids),
    "llama_outliers": _own(a.llama_outliers, a.ids),
    "gpt2": _own(a.gpt2, a.ids),
    "gpt2_overflow": _own(a.gpt2_overflow, a.ids),
    "qwen3": _own(a.qwen3, a.ids),
    "t5": _own(a.t5, a.ids),
    "deberta": _own(a.deberta, a.ids),
    "roberta": _text("Roberta", max_position_embeddings=160),
    "electra": _text("Electra", embedding_size=128),
    "mpnet": _text("MPNet", max_position_embeddings=160),
    "distilbert": _text("DistilBert", dim=256, hidden_dim=1024, n_layers=2, n_heads=4),
    "albert": _text("Albert", embedding_size=128),
    "mobilebert": _text("MobileBert", embedding_size=64, intra_bottleneck_size=64, intermediate_size=256),
    "modernbert": _text("ModernBert", global_attn_every_n_layers=1, num_hidden_layers=2),
    "mistral": _decoder("Mistral", sliding_window=None),
    "gemma": _decoder("Gemma", head_dim=64),
    "gemma2": _decoder("Gemma2", head_dim=64, query_pre_attn_scalar=64),
    "phi": _decoder("Phi"),
    "phi3": _decoder("Phi3", pad_token_id=0),
    "gpt_neox": _text("GPTNeoX", use_cache=False),
    "opt": _text("OPT", ffn_dim=1024, use_cache=False, word_embed_proj_dim=256),
    "bloom": _text("Bloom", n_head=4, n_layer=2, use_cache=False),
    "falcon": _text("Falcon", use_cache=False, new_decoder_architecture=False),
    "vit": _own(a.vit, lambda: a.image(2, 224)),
    "deit": _own(a.deit, lambda: a.image(2, 224)),
    "swin": _own(a.swin, lambda: a.image(2, 224)),
    "segformer": _own(a.segformer, lambda: a.image(2, 256)),
    "convnext": _own(a.convnext, lambda: a.image(2, 224)),
    "mobilevit": _own(a.mobilevit, lambda: a.image(2, 256)),
    "poolformer": _own(a.poolformer, lambda: a.image(2, 224)),
    "resnet": _own(a.resnet, lambda: a.image(2, 224)),
    "sam_encoder": _own(a.sam, lambda: a.image(1, 512)),
    "whisper_encoder": _own(a.whisper, a.mel),
    "unet": _own(a.UNet, lambda: a.image(2, 64), first=False),
    "style": _own(a.Style, lambda: a.pixels(1, 256), first=False),
    "beit": _image("Beit", use_relative_position_bias=True, **VIT),
    "dinov2": _image("Dinov2", **{**SMALL, "image_size": 224, "patch_size": 16, "mlp_ratio": 4}),
    "siglip_vision": _image("SiglipVision", **VIT),
    "clip_vision": _image("CLIPVision", **VIT),
    "levit": _image("Levit", "ForImageClassification", num_labels=100),
    "regnet": _image("RegNet", "ForImageClassification", num_labels=100),
    "mobilenet_v2": _image("MobileNetV2", "ForImageClassification", num_labels=100),
    "pvt_v2": _image("PvtV2", "ForImageClassification", num_labels=100),
    "yolos": _image("Yolos", "ForObjectDetection", **{**VIT, "image_size": [224, 224], "num_detection_tokens": 20}),
    "wav2vec2": lambda: (
        a.First(a.spread(_eager(t.Wav2Vec2Model(t.Wav2Vec2Config(**SMALL, vocab_size=32))))), torch.randn(2, 16000)
    ),
    "timm_efficientvit": _timm("efficientvit_b0"),
    "timm_maxvit": _timm("maxvit_nano_rw_256", 256),
    "timm_mixer": _timm("mixer_s32_224"),
    "timm_edgenext": _timm("edgenext_xx_small", 256),
    "timm_fastvit": _timm("fastvit_t8", 256),
    "recommender": _own(Recommender, lambda: torch.rand(64, 21) * 900, first=False),
    "graph_attention": _own(GraphAttention, lambda: torch.randn(2, 64, 64) * 4, first=False),
}  # fmt: skip
# Where TensorRT 10.6 is asked, too, the ones that tell most first.
ON_TENSORRT = (
    "poolformer", "sam_encoder", "mobilevit", "segformer", "bert", "llama_outliers", "vit", "unet", "gpt2_overflow",
    "convnext", "swin", "whisper_encoder", "style", "resnet", "deit", "qwen3", "t5", "beit",
)  # fmt: skip
