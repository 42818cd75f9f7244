"""The torch modules: transformers, timm and torchvision configurations in small, with random weights.

Each is a function without arguments that gives (module, its inputs by name). Sizes are as small as the architecture
allows, since what is asked of them is which operators are written how, and in which types they come out right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, dict[str, torch.Tensor]]

WIDTH: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
TEXT: dict[str, Any] = {**WIDTH, "vocab_size": 200, "max_position_embeddings": 96, "pad_token_id": 0}
LLM: dict[str, Any] = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
VIT: dict[str, Any] = {**WIDTH, "image_size": 64, "patch_size": 16}


class Wrapped(nn.Module):
    """One result of a transformers model, of inputs by name."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], pick: int | str = 0, **options: Any) -> None:
        super().__init__()
        self.m, self.names, self.pick, self.options = module, names, pick, options

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        inputs = dict(zip(self.names, given, strict=True))
        found = self.m(**inputs, return_dict=isinstance(self.pick, str), **self.options)
        result: torch.Tensor = found[self.pick]
        return result


def spread(module: nn.Module) -> nn.Module:
    """Gammas, betas and biases that are not all 1 and 0, as in a trained model."""
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    for buffer_name, buffer in module.named_buffers():
        if buffer_name.endswith("running_var"):
            buffer *= 1 + 0.3 * torch.rand_like(buffer)
    return module


def eager(module: Any) -> Any:
    """Attention written out, where there is the choice."""
    with contextlib.suppress(ValueError, AttributeError):  # models without a choice of attention
        module.set_attn_implementation("eager")
    return module


def picture(rows: int = 2, size: int = 64, channels: int = 3) -> torch.Tensor:
    """Images with structure, about -2 to 2."""
    coarse = nn.functional.interpolate(torch.randn(rows, channels, 5, 5), size=(size, size), mode="bicubic")
    return (coarse + 0.15 * torch.randn(rows, channels, size, size)).clamp(-2.5, 2.5)


def words(rows: int = 2, length: int = 24, vocabulary: int = 200) -> torch.Tensor:
    return torch.randint(3, vocabulary, (rows, length))


def _text(model: str, base: Mapping[str, Any] = TEXT, pick: int | str = 0, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        import transformers

        config = getattr(transformers, f"{model}Config")(**{**base, **options})
        module = spread(eager(getattr(transformers, f"{model}Model")(config)))
        mask = torch.ones(2, 24, dtype=torch.int64)
        mask[1, 18:] = 0
        given = {"input_ids": words(), "attention_mask": mask}
        return Wrapped(module, tuple(given), pick), given

    return build


def _vision(
    model: str, pick: int | str = 0, size: int = 64, head: str = "Model", **options: Any
) -> Callable[[], Built]:
    def build() -> Built:
        import transformers

        config = getattr(transformers, f"{model}Config")(**options)
        module = spread(eager(getattr(transformers, f"{model}{head}")(config)))
        given = {"pixel_values": picture(2, size)}
        return Wrapped(module, tuple(given), pick), given

    return build


def _timm(name: str, size: int = 64, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        import timm

        module = timm.create_model(name, pretrained=False, num_classes=20, **options)
        return spread(module), {"pixel_values": picture(2, size)}

    return build


def _torchvision(name: str, size: int = 64, pick: str = "", **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        import torchvision

        module = torchvision.models.get_model(name, weights=None, **options)
        return spread(_Picked(module, pick) if pick else module), {"pixel_values": picture(2, size)}

    return build


class _Picked(nn.Module):
    def __init__(self, module: nn.Module, pick: str) -> None:
        super().__init__()
        self.m, self.pick = module, pick

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.m(x)[self.pick]
        return result


def t5() -> Built:
    import transformers

    config = transformers.T5Config(vocab_size=200, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    module = spread(eager(transformers.T5ForConditionalGeneration(config)))
    given = {"input_ids": words(), "attention_mask": torch.ones(2, 24, dtype=torch.int64)}
    given["decoder_input_ids"] = words(2, 8)
    return Wrapped(module, tuple(given), use_cache=False), given


def whisper() -> Built:
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=200, num_mel_bins=16, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=50,
        max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    module = spread(eager(transformers.WhisperModel(config)))
    given = {"input_features": torch.randn(2, 16, 100), "decoder_input_ids": words(2, 8)}
    return Wrapped(module, tuple(given), use_cache=False), given


def wav2vec2() -> Built:
    import transformers

    config = transformers.Wav2Vec2Config(
        **WIDTH, vocab_size=32, conv_dim=[32] * 4, conv_stride=[5, 4, 4, 2], conv_kernel=[10, 8, 4, 4],
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    given = {"input_values": torch.randn(2, 4000) * 0.1}
    return Wrapped(spread(eager(transformers.Wav2Vec2Model(config))), tuple(given)), given


def hifigan() -> Built:
    import transformers

    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=16, upsample_initial_channel=32, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8]
    )
    module = spread(transformers.SpeechT5HifiGan(config))
    return module, {"spectrogram": torch.randn(2, 30, 16)}


def rt_detr() -> Built:
    import transformers

    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 32, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[32, 32, 32], encoder_ffn_dim=64,
        encoder_attention_heads=4, d_model=32, num_queries=20, decoder_in_channels=[32, 32, 32], decoder_ffn_dim=64,
        decoder_layers=2, decoder_attention_heads=4, decoder_n_points=2, num_labels=5, anchor_image_size=None,
        use_pretrained_backbone=False,
    )  # fmt: skip
    module = spread(eager(transformers.RTDetrForObjectDetection(config)))
    given = {"pixel_values": picture(1, 96)}
    return Wrapped(module, tuple(given), "pred_boxes"), given


def detr() -> Built:
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 32, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, use_pretrained_backbone=False, backbone=None, d_model=64,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
        decoder_ffn_dim=128, num_queries=20, num_labels=5,
    )  # fmt: skip
    module = spread(eager(transformers.DetrForObjectDetection(config)))
    given = {"pixel_values": picture(1, 96)}
    return Wrapped(module, tuple(given), "pred_boxes"), given


class UNet(nn.Module):
    """A diffusion U-Net in small: GroupNorm, SiLU, a time embedding, attention in the middle."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.begin = nn.Conv2d(4, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.qkv, self.end = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, 4, 3, padding=1)
        self.width = width

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        rates = torch.exp(-9.21 * torch.arange(half, dtype=torch.float32) / half)
        angles = timestep[:, None].float() * rates[None]
        emb = self.time(torch.cat([torch.sin(angles), torch.cos(angles)], -1))
        silu = nn.functional.silu
        x = self.begin(sample)
        kept = x + self.convs[0](silu(self.norms[0](x))) + emb[:, :, None, None]
        y = self.down(kept)
        b, c, h, w = y.shape
        q, k, v = self.qkv(self.norms[1](y)).reshape(b, 3, c, h * w).unbind(1)
        y = y + (v @ torch.softmax(q.transpose(1, 2) @ k * c**-0.5, -1).transpose(1, 2)).reshape(b, c, h, w)
        y = y + self.convs[1](silu(self.norms[2](y)))
        y = nn.functional.interpolate(y, scale_factor=2.0, mode="nearest") + kept
        result: torch.Tensor = self.end(silu(self.norms[3](y)))
        return result


def unet() -> Built:
    return spread(UNet()), {"sample": torch.randn(2, 4, 16, 16), "timestep": torch.tensor([981, 21])}


class Style(nn.Module):
    """Feed-forward style transfer: reflection padding, InstanceNorm, pixels of 0 to 255."""

    def __init__(self) -> None:
        super().__init__()

        def block(i: int, o: int, k: int, s: int) -> nn.Sequential:
            return nn.Sequential(
                nn.ReflectionPad2d(k // 2), nn.Conv2d(i, o, k, s), nn.InstanceNorm2d(o, affine=True), nn.ReLU()
            )

        self.body = nn.Sequential(block(3, 16, 9, 1), block(16, 32, 3, 2), block(32, 32, 3, 1))
        self.end = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(32, 3, 3)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.end(self.body(image))
        return result


def style() -> Built:
    return spread(Style()), {"image": (picture(1, 64) * 50 + 128).round()}


class Recommender(nn.Module):
    """DLRM in small: embeddings, pairwise products, two towers."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(100, 16) for _ in range(4))
        self.bottom = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        x = self.bottom(torch.log1p(dense))
        rows = torch.stack([x, *(table(ids[:, i]) for i, table in enumerate(self.tables))], 1)
        products = rows @ rows.transpose(1, 2)
        at = torch.tril_indices(5, 5, -1)
        return self.top(torch.cat([x, products[:, at[0], at[1]]], 1))  # type: ignore[no-any-return]


def recommender() -> Built:
    given = {"dense": torch.rand(16, 13) * 5000, "ids": torch.randint(0, 100, (16, 4))}
    return Recommender(), given


class GraphAttention(nn.Module):
    """Dense graph attention with a mask by distance."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.s, self.out = nn.Linear(16, 16, bias=False), nn.Linear(32, 1), nn.Linear(16, 4)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        distance = ((nodes[:, :, None, :3] - nodes[:, None, :, :3]) ** 2).sum(-1)
        h = self.w(nodes)
        n = h.shape[1]
        pairs = torch.cat([h[:, :, None].expand(-1, -1, n, -1), h[:, None].expand(-1, n, -1, -1)], -1)
        scores = nn.functional.leaky_relu(self.s(pairs)[..., 0], 0.2)
        scores = torch.where(distance < 150, scores, torch.full_like(scores, -1e9))
        return self.out(nn.functional.elu(torch.softmax(scores, -1) @ h))  # type: ignore[no-any-return]


class LogMel(nn.Module):
    """A speech front end: framing and Fourier sums as a convolution, power, mel, logarithm, two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        time, freq = torch.arange(256.0), torch.arange(129.0)
        angle = 2 * torch.pi * freq[:, None] * time[None] / 256
        window = torch.hann_window(256)
        self.register_buffer("basis", torch.cat([torch.cos(angle), torch.sin(angle)])[:, None] * window)
        self.register_buffer("mel", torch.rand(24, 129) / 129)
        self.net = nn.Sequential(nn.Conv1d(24, 32, 3), nn.ReLU(), nn.Conv1d(32, 8, 3))

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        spectrum = nn.functional.conv1d(audio[:, None], self.basis, stride=128)
        real, imaginary = spectrum.chunk(2, 1)
        power = real**2 + imaginary**2
        return self.net(torch.log(self.mel @ power + 1e-10))  # type: ignore[no-any-return]


class Warp(nn.Module):
    """Optical flow refined once: pixel coordinates plus flow, a grid sample, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.flow, self.end = nn.Conv2d(6, 2, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        h, w = first.shape[2:]
        flow = self.flow(torch.cat([first, second], 1))
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        at = torch.stack([x, y]).float()[None] + flow
        grid = torch.stack([2 * at[:, 0] / (w - 1) - 1, 2 * at[:, 1] / (h - 1) - 1], -1)
        warped = nn.functional.grid_sample(second, grid, align_corners=True)
        return self.end(torch.cat([first, warped], 1))  # type: ignore[no-any-return]


class SineSource(nn.Module):
    """A vocoder's source: a phase accumulated over a second of sound, and its sine."""

    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Conv1d(4, 1, 7, padding=3)

    def forward(self, f0: torch.Tensor) -> torch.Tensor:
        f0 = nn.functional.interpolate(f0[:, None], scale_factor=80.0, mode="linear").transpose(1, 2)
        rates = f0 * torch.arange(1.0, 5.0) / 16000
        phase = 2 * torch.pi * torch.cumsum(rates, 1)
        return self.end((torch.sin(phase) * 0.1).transpose(1, 2))  # type: ignore[no-any-return]


class Cached(nn.Module):
    """A decoder layer by hand with its cache: past keys and values in, present ones out."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.table, self.heads = nn.Embedding(200, width), heads
        self.norm, self.qkv = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, 3 * width)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 200)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past_key: torch.Tensor, past_value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.table(input_ids)
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        low = torch.finfo(torch.float32).min
        blocked = (1.0 - attention_mask[:, None, None].float()) * low
        scores = q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5 + blocked
        y = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(b, n, c)
        return self.head(x + self.out(y)), k, v


def cached() -> Built:
    given = {
        "input_ids": words(2, 1), "attention_mask": torch.ones(2, 13, dtype=torch.int64),
        "past_key": torch.randn(2, 4, 12, 16), "past_value": torch.randn(2, 4, 12, 16),
    }  # fmt: skip
    return spread(Cached()), given


def _module(make: Callable[[], nn.Module], inputs: Callable[[], dict[str, torch.Tensor]]) -> Callable[[], Built]:
    return lambda: (spread(make()), inputs())


MODULES: dict[str, Callable[[], Built]] = {
    "bert": _text("Bert"),
    "roberta": _text("Roberta"),
    "deberta": _text("DebertaV2", pos_att_type=["c2p", "p2c"], relative_attention=True),
    "albert": _text("Albert", embedding_size=32),
    "mobilebert": _text("MobileBert", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    "modernbert": _text("ModernBert", global_attn_every_n_layers=1),
    "gpt2": _text("GPT2", {"vocab_size": 200, "n_positions": 96, "n_embd": 64, "n_layer": 2, "n_head": 4},
                  use_cache=False),
    "llama": _text("Llama", LLM),
    "qwen3": _text("Qwen3", LLM, head_dim=16),
    "gemma2": _text("Gemma2", LLM, head_dim=16, query_pre_attn_scalar=16),
    "phi": _text("Phi", LLM),
    "bloom": _text("Bloom", {"vocab_size": 200, "hidden_size": 64, "n_layer": 2, "n_head": 4}, use_cache=False),
    "t5": t5,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "hifigan": hifigan,
    "vit": _vision("ViT", **VIT),
    "swin": _vision("Swinv2", size=32, image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2],
                    window_size=4),
    "segformer": _vision("Segformer", head="ForSemanticSegmentation", num_labels=5, hidden_sizes=[16, 32, 32, 64],
                         depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=32),
    "convnextv2": _vision("ConvNextV2", hidden_sizes=[16, 32], depths=[1, 1], num_stages=2),
    "beit": _vision("Beit", **VIT, use_relative_position_bias=True),
    "dinov2": _vision("Dinov2", **{**VIT, "mlp_ratio": 2}),
    "mobilevit": _vision("MobileViT", hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64],
                         num_attention_heads=2, image_size=64),
    "clip_vision": _vision("CLIPVision", **VIT),
    "rt_detr": rt_detr,
    "detr": detr,
    "efficientvit": _timm("efficientvit_b0"),
    "levit": _timm("levit_128s", 224),
    "mixer": _timm("mixer_s32_224", 64, img_size=64),
    "efficientnet": _timm("efficientnet_lite0"),
    "maxvit": _timm("maxvit_rmlp_pico_rw_256", 64, img_size=64),
    "resnet": _torchvision("resnet18", 64),
    "mobilenet": _torchvision("mobilenet_v3_small", 64),
    "segmentation": _torchvision("lraspp_mobilenet_v3_large", 64, "out", weights_backbone=None, num_classes=5),
    "unet": unet,
    "style": style,
    "recommender": recommender,
    "graph_attention": _module(GraphAttention, lambda: {"nodes": torch.randn(2, 24, 16) * 4}),
    "log_mel": _module(LogMel, lambda: {"audio": (torch.randn(2, 4000) * 0.1).clamp(-1, 1)}),
    "warp": _module(Warp, lambda: {"first": picture(1, 48), "second": picture(1, 48)}),
    "sine_source": _module(SineSource, lambda: {"f0": torch.rand(1, 200) * 100 + 150}),
    "cached_decoder": cached,
}  # fmt: skip
