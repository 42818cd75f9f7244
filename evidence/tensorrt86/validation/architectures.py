"""The torch modules of the validation: real architectures of reduced depth, with random weights, some made to break.

Each is a function without arguments that returns (module, example inputs). Widths are multiples of 64 and there are
hundreds of rows, so that TensorRT has FP16 kernels worth choosing.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers as t
from torch import nn

Built = tuple[nn.Module, torch.Tensor]

TEXT: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "vocab_size": 512,
    "max_position_embeddings": 128,
}
LLM: dict[str, Any] = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
VISION: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "image_size": 224,
    "patch_size": 16,
}


class First(nn.Module):
    """The first result of a transformers model, from one input; a text model gets a mask of ones made in the graph."""

    def __init__(self, module: nn.Module, pick: str | int = 0, **options: Any) -> None:
        super().__init__()
        self.m, self.pick, self.options = module, pick, options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        more = {"attention_mask": torch.ones_like(x)} if x.dtype == torch.int64 else {}
        found = self.m(x, return_dict=isinstance(self.pick, str), **more, **self.options)
        result: torch.Tensor = found[self.pick]
        return result


def eager(module: Any) -> Any:
    """Attention written out, as every exporter can write it."""
    module.set_attn_implementation("eager")
    return module


def ids(rows: int = 8, length: int = 128, vocabulary: int = 512) -> torch.Tensor:
    """Token ids, int64 [rows, length]."""
    return torch.randint(3, vocabulary, (rows, length))


def image(rows: int, size: int) -> torch.Tensor:
    """Images [rows, 3, size, size] with structure, in steps of 1/32 about -2 to 2 (they compress well)."""
    coarse = nn.functional.interpolate(torch.randn(rows, 3, 9, 9), size=(size, size), mode="bicubic")
    fine = 0.15 * torch.randn(rows, 3, size, size)
    return torch.round((coarse + fine).clamp(-2.5, 2.5) * 32) / 32


def spread(module: nn.Module) -> nn.Module:
    """Gammas, betas and biases that are not all 1 and 0, as in a trained model."""
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def scaled(module: nn.Module, factor: float, *parts: str) -> nn.Module:
    """The parameters whose name holds one of `parts`, times a factor; it is an error if none does."""
    found = [p for name, p in module.named_parameters() if any(part in name for part in parts)]
    if not found:
        raise ValueError(f"no parameter is named {parts}")
    for parameter in found:
        parameter.data *= factor
    return module


def bert(**more: Any) -> nn.Module:
    return spread(eager(t.BertModel(t.BertConfig(**{**TEXT, **more}))))


def llama(**more: Any) -> nn.Module:
    return spread(eager(t.LlamaModel(t.LlamaConfig(**{**LLM, **more}))))


def gpt2() -> nn.Module:
    config = t.GPT2Config(vocab_size=512, n_positions=128, n_embd=256, n_layer=3, n_head=4, use_cache=False)
    return spread(eager(t.GPT2Model(config)))


def qwen3() -> nn.Module:
    return spread(eager(t.Qwen3Model(t.Qwen3Config(**LLM, head_dim=64))))


def t5() -> nn.Module:
    config = t.T5Config(vocab_size=512, d_model=256, d_kv=64, d_ff=1024, num_layers=3, num_heads=4)
    return spread(eager(t.T5EncoderModel(config)))


def deberta() -> nn.Module:
    return spread(t.DebertaModel(t.DebertaConfig(**TEXT, pos_att_type=["c2p", "p2c"], relative_attention=True)))


def vit(**more: Any) -> nn.Module:
    return spread(eager(t.ViTModel(t.ViTConfig(**{**VISION, **more}), add_pooling_layer=False)))


def deit() -> nn.Module:
    return spread(eager(t.DeiTForImageClassification(t.DeiTConfig(**VISION, num_labels=100))))


def swin() -> nn.Module:
    config = t.SwinConfig(image_size=224, embed_dim=64, depths=[2, 2, 2], num_heads=[2, 4, 8], window_size=7)
    return spread(t.SwinModel(config))


def segformer(**more: Any) -> nn.Module:
    """SegFormer (B0 unless said otherwise) as transformers initializes it: no affine is disturbed."""
    return eager(t.SegformerForSemanticSegmentation(t.SegformerConfig(num_labels=20, **more)))


def segformer_small() -> nn.Module:
    """Widths that are no multiples of 32, one block a stage."""
    return segformer(
        hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 8], decoder_hidden_size=64
    )


def segformer_two_stages() -> nn.Module:
    """The smallest that still has a stage which the next stage's convolution and the head both read."""
    return segformer(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[8, 1], hidden_sizes=[32, 64], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[4, 4],
    )  # fmt: skip


def segformer_shallow() -> nn.Module:
    """B0's widths and four stages, one block each."""
    return segformer(depths=[1, 1, 1, 1])


def convnext() -> nn.Module:
    config = t.ConvNextConfig(
        hidden_sizes=[64, 128, 256], depths=[2, 2, 2], num_stages=3, num_labels=100, layer_scale_init_value=0.5
    )
    return spread(t.ConvNextForImageClassification(config))


def mobilevit(size: int = 256) -> nn.Module:
    config = t.MobileViTConfig(
        image_size=size, num_labels=100, hidden_sizes=[96, 128, 160], neck_hidden_sizes=[16, 32, 48, 64, 96, 128, 320]
    )
    return warm_batch_norms(eager(t.MobileViTForImageClassification(config)), image(4, size))


def poolformer() -> nn.Module:
    config = t.PoolFormerConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 192, 256], num_labels=100, layer_scale_init_value=0.5
    )
    return spread(t.PoolFormerForImageClassification(config))


def resnet() -> nn.Module:
    config = t.ResNetConfig(
        embedding_size=64, hidden_sizes=[128, 256, 512], depths=[2, 2, 2], layer_type="bottleneck", num_labels=100
    )
    return warm_batch_norms(spread(t.ResNetForImageClassification(config)), image(4, 224))


def whisper() -> nn.Module:
    config = t.WhisperConfig(
        d_model=256,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=1024,
        max_source_positions=400,
        decoder_layers=1,
        decoder_attention_heads=4,
    )
    return spread(eager(t.WhisperModel(config)).encoder)


def sam() -> nn.Module:
    """SAM's vision encoder with most weights below FP16's normal range, as badly scaled checkpoints have them."""
    config = t.SamVisionConfig(
        hidden_size=256, num_hidden_layers=3, num_attention_heads=4, mlp_dim=1024, image_size=512, window_size=8,
        global_attn_indexes=[2], output_channels=128,
    )  # fmt: skip
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    return scaled(spread(eager(SamVisionEncoder(config))), 3e-4, "mlp.lin1.weight", "mlp.lin2.weight", "qkv.weight")


def warm_batch_norms(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """Convolutions that keep the scale, and running statistics that are those of data, not 0 and 1."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = None  # the plain mean over the batches seen
        layer.reset_running_stats()
    module.train()
    with torch.no_grad():
        module(x)
    return module.eval()


class Block(nn.Module):
    """GroupNorm, SiLU, Conv; twice, with a residual."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.GroupNorm(16, inputs), nn.GroupNorm(16, outputs)
        self.c1, self.c2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.c1(nn.functional.silu(self.n1(x)))
        result: torch.Tensor = self.skip(x) + self.c2(nn.functional.silu(self.n2(h)))
        return result


class UNet(nn.Module):
    """A diffusion UNet in small: GroupNorm, SiLU, self-attention at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 64, 3, padding=1)
        self.down = nn.ModuleList([Block(64, 64), Block(64, 128), Block(128, 256)])
        self.shrink = nn.ModuleList([nn.Conv2d(c, c, 3, 2, 1) for c in (64, 128)])
        self.norm, self.qkv, self.out = nn.GroupNorm(16, 256), nn.Conv2d(256, 768, 1), nn.Conv2d(256, 256, 1)
        self.up = nn.ModuleList([Block(256 + 128, 128), Block(128 + 64, 64)])
        self.leave = nn.Sequential(nn.GroupNorm(16, 64), nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        kept = []
        for number, block in enumerate(self.down):
            x = block(x)
            if number < 2:
                kept.append(x)
                x = self.shrink[number](x)
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, 4, 64, h * w).unbind(1)
        scores = torch.softmax(q.transpose(-1, -2) @ k * 0.125, -1)
        x = x + self.out((v @ scores.transpose(-1, -2)).reshape(n, c, h, w))
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, kept.pop()], 1))
        result: torch.Tensor = self.leave(x)
        return result


class WrittenInstanceNorm(nn.Module):
    """InstanceNorm as older networks write it: two means and a square root."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(1, channels, 1, 1))
        self.bias = nn.Parameter(0.1 * torch.randn(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centered = x - x.mean((2, 3), keepdim=True)
        deviation = torch.sqrt(centered.pow(2).mean((2, 3), keepdim=True) + 1e-5)
        result: torch.Tensor = centered / deviation * self.weight + self.bias
        return result


class Style(nn.Module):
    """The fast style transfer network: InstanceNorm after every convolution, pixels of 0 to 255 in and out."""

    def __init__(self, is_written: bool = False) -> None:
        super().__init__()

        def layer(a: int, b: int, kernel: int, stride: int = 1) -> list[nn.Module]:
            pad = nn.ReflectionPad2d(kernel // 2)
            norm = WrittenInstanceNorm(b) if is_written else nn.InstanceNorm2d(b, affine=True)
            return [pad, nn.Conv2d(a, b, kernel, stride), norm]

        self.head = nn.Sequential(
            *layer(3, 32, 9), nn.ReLU(), *layer(32, 64, 3, 2), nn.ReLU(), *layer(64, 128, 3, 2), nn.ReLU()
        )
        self.body = nn.ModuleList(nn.Sequential(*layer(128, 128, 3), nn.ReLU(), *layer(128, 128, 3)) for _ in range(3))
        up = nn.Upsample(scale_factor=2.0)
        self.tail = nn.Sequential(
            up,
            *layer(128, 64, 3),
            nn.ReLU(),
            up,
            *layer(64, 32, 3),
            nn.ReLU(),
            nn.ReflectionPad2d(4),
            nn.Conv2d(32, 3, 9),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        for block in self.body:
            x = x + block(x)
        result: torch.Tensor = self.tail(x) * 60 + 120
        return result


def pixels(rows: int, size: int) -> torch.Tensor:
    """Whole numbers of 0 to 255."""
    return torch.round((image(rows, size) + 2.5) * 51)


# The hard ones -------------------------------------------------------------------------------------------


def bert_tiny_activations(factor: float) -> nn.Module:
    """eps 1e-12 and small embeddings: their squares lie under FP16's normal range, and eps is no help."""
    parts = "embeddings.word_embeddings", "embeddings.position", "embeddings.token_type"
    return scaled(bert(layer_norm_eps=1e-12), factor, *parts)


def bert_huge_logits() -> nn.Module:
    """Attention scores in the hundreds: an FP16 score is off by up to a quarter."""
    module = scaled(bert(), 35.0, "query.weight", "key.weight")
    return scaled(module, 5.0, "value.weight", "attention.output.dense.weight")


def llama_outliers() -> nn.Module:
    """Massive activations: two channels of every embedding at 900, whose squares pass 65504 in each RMSNorm."""
    module = llama()
    weight = dict(module.named_parameters())["embed_tokens.weight"]
    weight.data *= 50.0
    weight.data[:, [40, 200]] = torch.tensor([900.0, -700.0])
    for name, parameter in module.named_parameters():
        if "norm" in name:
            parameter.data *= 71.0
            parameter.data[[40, 200]] = 0.01
    return module


def gpt2_overflow() -> nn.Module:
    """A feed-forward output of some 1e5, and a final LayerNorm that FP32 takes it back with."""
    module = gpt2()
    return scaled(module, 3000.0, "h.1.mlp.c_fc.weight", "h.1.mlp.c_proj.weight")


def vit_tiny_linears() -> nn.Module:
    """Weights near 6e-7, a few steps of FP16's smallest subnormal; the next product takes the scale back."""
    module = vit()
    scaled(module, 3e-5, "v_proj.")
    return scaled(module, 5e5, "o_proj.weight")


def minilm() -> nn.Module:
    """MiniLM's first two layers with trained weights; cut to 16 significant bits and 2048 words, to be carried."""
    from examples.bert_classifier.minilm import minilm_weights

    config = t.BertConfig(
        vocab_size=2048, hidden_size=384, num_hidden_layers=2, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=128,
    )  # fmt: skip
    module = eager(t.BertModel(config, add_pooling_layer=False))
    weights = {name: torch.tensor(array) for name, array in minilm_weights().items()}
    for name, parameter in module.named_parameters():
        own = weights[name][: parameter.shape[0]].float().contiguous()
        parameter.data = (own.view(torch.int32) & -256).view(torch.float32)
    return module


def resnet_pixels() -> nn.Module:
    """Pixels of 0 to 255 into a network without normalization of its input, its first convolution times 40."""
    return scaled(resnet(), 40.0, "embedder.embedder.convolution.weight")


class NormProbe(nn.Module):
    """Decomposed LayerNorms behind a strided Conv, a Reshape and a Transpose, as in SegFormer: many in one network.

    One output a width and magnitude: [1, rows, width], a Linear behind the norm.
    """

    SIZES = ((32, 2), (64, 4), (160, 8), (256, 16))
    MAGNITUDES = (1e-3, 1e-2, 1.0, 30.0)

    def __init__(self, conv: bool) -> None:
        super().__init__()
        self.conv = conv
        pairs = [(width, stride, size) for width, stride in self.SIZES for size in self.MAGNITUDES]
        self.enter = nn.ModuleList(
            nn.Conv2d(8, width, 3 if conv else 1, stride, 1 if conv else 0, bias=False) for width, stride, _ in pairs
        )
        self.norm = nn.ModuleList(nn.LayerNorm(width) for width, _, _ in pairs)
        self.leave = nn.ModuleList(nn.Linear(width, width) for width, _, _ in pairs)
        for layer, (_, _, size) in zip(self.enter, pairs, strict=True):
            layer.weight.data = torch.randn_like(layer.weight) * size / layer.weight[0].numel() ** 0.5
        self.names = [f"y_{width}_{size:g}" for width, _, size in pairs]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for enter, norm, leave in zip(self.enter, self.norm, self.leave, strict=True):
            rows = enter(x).flatten(2).transpose(1, 2)
            rows = norm(rows)
            found.append(leave(rows) if self.conv else rows)
        return tuple(found)


def mel() -> torch.Tensor:
    """Log-mel frames of Whisper's range, [2, 80, 800]."""
    return torch.round(torch.randn(2, 80, 800).clamp(-2, 2) * 16) / 32


def grid() -> torch.Tensor:
    """A smooth field of 8 channels, [1, 8, 128, 128]."""
    return torch.cat([image(3, 128)[:, :2], image(1, 128)[:, :2]]).reshape(1, 8, 128, 128)
