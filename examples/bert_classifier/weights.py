"""The weights of a sample model: trained or random, made hard on request, a classifier fitted to them."""

from __future__ import annotations

import math
import zlib

import numpy as np

from .minilm import minilm_weights
from .reference import Forward
from .spec import CLASSES, BertSpec
from .tokens import topic_batch

Array = np.ndarray

_PROBE_TOKENS = 16
_LOGIT_SPREAD = 0.6
"""Standard deviation of a class's logit over the probe rows."""


def parameter_shapes(spec: BertSpec) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every parameter in the order of torch's ``named_parameters``."""
    hidden, inner = spec.hidden, spec.intermediate

    def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}

    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (spec.vocabulary, hidden),
        "embeddings.position_embeddings.weight": (spec.positions, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        **norm("embeddings.LayerNorm"),
    }
    for index in range(spec.layers):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{layer}.attention.self.{part}", hidden, hidden)
        shapes |= linear(f"{layer}.attention.output.dense", hidden, hidden)
        shapes |= norm(f"{layer}.attention.output.LayerNorm")
        shapes |= linear(f"{layer}.intermediate.dense", inner, hidden)
        shapes |= linear(f"{layer}.output.dense", hidden, inner)
        shapes |= norm(f"{layer}.output.LayerNorm")
    return shapes | linear("pooler.dense", hidden, hidden) | linear("classifier", CLASSES, hidden)


def make_weights(spec: BertSpec) -> dict[str, Array]:
    """Make every parameter of the model: float32, Hugging Face's names, Linear weights [out, in].

    The classifier is fitted in closed form to the sentences of the fixture (``fit_head``), so the answer
    depends on the input for any size, with random weights too.
    """
    weights = minilm_weights() if spec.weights == "minilm" else _random_weights(spec)
    large = spec.layers * spec.hidden * (spec.hidden + spec.intermediate) > 2e7
    rows = 22 if large else 44  # two or four sentences a class: a float64 pass over BERT base takes seconds
    ids, classes = topic_batch(spec, rows, min(_PROBE_TOKENS, spec.positions))
    if spec.variant != "plain":
        pooled = _balance(spec, weights, ids, _plant(spec, weights))
    else:
        pooled = Forward(spec, weights).pooled(ids)
    fit_head(weights, pooled, classes)
    return {name: weights[name] for name in parameter_shapes(spec)}


def _random_weights(spec: BertSpec) -> dict[str, Array]:
    """Draw all but the classifier, each tensor from a generator of its own (seed and name)."""
    return {
        name: _draw(spec, name, shape)
        for name, shape in parameter_shapes(spec).items()
        if not name.startswith("classifier.")
    }


def _draw(spec: BertSpec, name: str, shape: tuple[int, ...]) -> Array:
    """Draw one tensor at the scale a trained model of this width has.

    A Linear weight gets 1/sqrt(fan in), so that a sublayer's output is as large as its input and the
    first token sees the sentence; query and key a little more, so that attention picks tokens.
    """
    is_norm = "LayerNorm" in name
    if spec.weights == "fresh" and (is_norm or name.endswith(".bias")):
        return np.full(shape, 1.0 if is_norm and name.endswith(".weight") else 0.0, dtype=np.float32)
    noise = np.random.default_rng([spec.seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    if is_norm and name.endswith(".weight"):
        return np.float32(1.0) + np.float32(0.1) * noise
    if name.endswith(".bias"):
        return np.float32(0.05) * noise
    if "embeddings" in name:
        return np.float32(0.05 if "word" in name else 0.02) * noise
    gain = 1.3 if ".query." in name or ".key." in name else 1.0
    return np.float32(gain / math.sqrt(shape[-1])) * noise


# The hard variants ---------------------------------------------------------------------------------------


def massive_channels(spec: BertSpec) -> tuple[list[int], list[float]]:
    """Return the channels that become massive and the value each gets in front of every encoder LayerNorm.

    900 to 2,500, and 480 in a model narrower than 32: the mean of the squares has to stay under 65504, so
    that of a LayerNorm's own steps only the squares overflow. The values add up to 0: a mean of, say, 20
    would have to be taken back by beta, whose rounding alone would then cost 0.01.
    """
    hidden = spec.hidden
    if hidden >= 384:
        values = [2500.0, -1700.0, 900.0, -1700.0]
    else:
        height = 1800.0 if hidden >= 128 else 1200.0 if hidden >= 48 else 900.0 if hidden >= 32 else 480.0
        values = [height, -height]
    step = hidden // len(values)
    return [hidden // 5 + i * step for i in range(len(values))], values


def overflowing_layers(spec: BertSpec) -> list[int]:
    """Return the layers whose FFN output passes 65504 in the ``ffn`` variant.

    Every second one with random weights; MiniLM's last, the only one whose FFN leaves all tokens alike.
    """
    if spec.weights == "minilm":
        return [spec.layers - 1]
    return list(range(1, spec.layers, 2)) or [0]


def planted_denses(spec: BertSpec) -> list[str]:
    """Return the dense layers whose output gets the massive channels: those in front of the LayerNorms.

    All of them with random weights. With MiniLM's the attention outputs: its FFN outputs already hold
    activations of 220 for [CLS], twenty times the other tokens', which only a true normalization evens out.
    """
    layers = [f"encoder.layer.{index}" for index in range(spec.layers)]
    names = [f"{layer}.attention.output.dense" for layer in layers]
    return names if spec.weights == "minilm" else names + [f"{layer}.output.dense" for layer in layers]


def _plant(spec: BertSpec, weights: dict[str, Array]) -> set[str]:
    """Add the massive channels, and the FFN's overflow, to the weights in place.

    The massive value is a bias, the same for every token, as in trained transformers (Sun et al. 2024,
    "Massive Activations in Large Language Models", find them to act as biases). It is a whole number, the rest
    of that output's row is zero, and what comes by the residual is almost zero, because an ulp of FP16 is up
    to 2 there and all of it would go into the mean of the row.

    The overflow is a product, two intermediate units at about 100 times weights of 600, so that every weight
    itself fits in FP16. Two channels get it with opposite signs, so that what rounding the units to FP16
    costs leaves the mean alone.

    Returns:
      The names of the LayerNorms that now see values beyond sqrt(65504).
    """
    channels, values = massive_channels(spec)
    changed = planted_denses(spec)
    for dense in changed:
        weights[f"{dense}.weight"][channels] = 0.0
        weights[f"{dense}.bias"][channels] = np.float32(values)
    for name in [name for name in weights if name.endswith("LayerNorm.weight")]:
        weights[name][channels] = 2.0**-10
        weights[name.replace(".weight", ".bias")][channels] = 0.0
    if spec.variant == "ffn":
        pair = [channels[0], channels[-1]]
        units = [spec.intermediate // 3, spec.intermediate // 2]
        for index in overflowing_layers(spec):
            layer = f"encoder.layer.{index}"
            out = weights[f"{layer}.output.dense.weight"]
            weights[f"{layer}.intermediate.dense.bias"][units] = 100.0
            out[:, units] = 0.0
            out[np.ix_(pair, units)] = np.float32([[600.0], [-600.0]])
            changed.append(f"{layer}.output.dense")
    return {name.replace(".dense", ".LayerNorm") for name in changed}


def _balance(spec: BertSpec, weights: dict[str, Array], ids: Array, norms: set[str]) -> Array:
    """Scale the named LayerNorms, in place, so that the ordinary channels come out as before.

    A massive channel makes the deviation large, so gamma has to be as much larger; trained models have
    learned the same. Done layer by layer on the probe sentences, each with the ones before it balanced.

    Returns:
      The pooled output of the probe rows with the balanced weights.
    """

    def balance(name: str, x: Array, present: Array) -> None:
        if name not in norms:
            return
        rows = x[present]
        massive = np.abs(rows).mean(axis=0) > 300.0
        ordinary = ~massive
        mean = float(rows[:, ordinary].mean())
        spread = math.sqrt(float(rows[:, ordinary].var(axis=1).mean()))
        deviation = math.sqrt(float(rows.var(axis=1).mean()))
        shift = float(rows.mean()) - mean
        gamma = np.asarray(weights[f"{name}.weight"], dtype=np.float64)
        beta = np.asarray(weights[f"{name}.bias"], dtype=np.float64)
        beta[ordinary] += gamma[ordinary] * shift / spread
        gamma[ordinary] *= deviation / spread
        height = (rows[:, massive].mean(axis=0) - rows.mean()) / deviation
        gamma[massive] = 0.5 / np.abs(height)  # comes out as +-0.5, and beta takes it back to 0
        beta[massive] = -0.5 * np.sign(height)
        weights[f"{name}.weight"] = _coarse(gamma)
        weights[f"{name}.bias"] = _coarse(beta)

    return Forward(spec, weights, before_norm=balance).pooled(ids)


def fit_head(weights: dict[str, Array], pooled: Array, classes: Array) -> None:
    """Set ``classifier.weight`` and ``classifier.bias``: class prototypes, a fixed function of the weights.

    The logit of a class is how far the pooled vector lies along the class's mean, both counted from the mean
    of all rows, in units that give the logits a standard deviation of ``_LOGIT_SPREAD``; so over ordinary
    sentences every class is somewhere likely and none is always.

    Args:
      weights: gets the two tensors, [11, hidden] and [11].
      pooled: float64 [rows, hidden], the pooled output of the probe rows.
      classes: int [rows], 0 to 10, each present.
    """
    mean = pooled.mean(axis=0)
    prototypes = np.stack([pooled[classes == k].mean(axis=0) - mean for k in range(CLASSES)])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    logits = (pooled - mean) @ prototypes.T
    prototypes *= _LOGIT_SPREAD / logits.std()
    weights["classifier.weight"] = _coarse(prototypes)
    weights["classifier.bias"] = _coarse(-prototypes @ mean)


def _coarse(values: Array) -> Array:
    """Round to float32 with 14 significant bits, so that a BLAS's last digits don't show in the model."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(fraction * 2**14) / 2**14, exponent).astype(np.float32)
