"""BERT's forward pass in numpy float64, written from the paper's definition and not from the graph.

It is the oracle of the sample models, and, with a ``round`` hook, a small simulator of low precision that
shares no code with the planner: the hook sees the result of every elementary step.
Sources: Devlin et al. 2018; Vaswani et al. 2017, 3.2; Ba et al. 2016 (LayerNorm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from .spec import EPSILON, BertSpec

Array = np.ndarray
Round = Callable[[str, Array], Array]
"""``round(step, value)``: float64 in, float64 out. The step is the name that the TorchScript exporter gives
the node, a constant's ends in ``/Constant``, e.g. ``/encoder/layer.0/output/dense/MatMul``."""
Norm = Literal["native", "decomposed"]

MASK = -3.4028234663852886e38
"""float32's lowest finite value, what a padding token's score gets added."""

_ROWS_AT_ONCE = 8


def _erf_table(step: int, stop: int, order: int) -> Array:
    """Taylor coefficients of erf at 0, 1/step, ..., stop: [points, order + 1], by Hermite's recurrence."""
    x = np.arange(stop * step + 1) / step
    table = np.empty((x.size, order + 1))
    table[:, 0] = [math.erf(value) for value in x]
    hermite, before = np.ones_like(x), np.zeros_like(x)
    for n in range(1, order + 1):
        sign = -1.0 if n % 2 == 0 else 1.0
        table[:, n] = sign * hermite * 2 / math.sqrt(math.pi) * np.exp(-x * x) / math.factorial(n)
        hermite, before = 2 * x * hermite - 2 * (n - 1) * before, hermite
    return table


_STEP, _STOP, _ORDER = 64, 6, 7
_TABLE = _erf_table(_STEP, _STOP, _ORDER)


def erf(x: Array) -> Array:
    """Return the error function of float64 values, any shape; NaN stays NaN.

    Taylor series of order 7 around the nearest of 385 points, where ``math.erf`` gives the value; the
    truncation is under 2^-56 because |h| <= 1/128, and beyond 6 the result is 1 within 2e-17.
    """
    flat = np.abs(np.ravel(np.asarray(x, dtype=np.float64)))
    out = np.empty_like(flat)
    for start in range(0, flat.size, 1 << 15):
        part = flat[start : start + (1 << 15)]
        near = np.where(part < _STOP, part, _STOP)
        index = np.rint(near * _STEP).astype(np.intp)
        offset = near - index / _STEP
        value = _TABLE[index, _ORDER]
        for n in range(_ORDER - 1, -1, -1):
            value = value * offset + _TABLE[index, n]
        out[start : start + (1 << 15)] = np.where(np.isnan(part), np.nan, value)
    return np.copysign(out.reshape(np.shape(x)), x)


class Forward:
    """One forward pass over a batch: the weights, the rounding and what is reported on the way."""

    def __init__(
        self,
        spec: BertSpec,
        weights: Mapping[str, Array],
        *,
        round: Round | None = None,
        norm: Norm = "native",
        before_norm: Callable[[str, Array, Array], None] | None = None,
    ) -> None:
        """Keep the arguments of ``forward``.

        Args:
          spec: the sizes.
          weights: as ``make_weights`` returns them; read when they are needed, so that ``before_norm`` may
            still change a LayerNorm's own.
          round: applied to every step's result and every constant; None computes in float64.
          norm: LayerNorm as one step, or as the nine that the exporter writes below opset 17.
          before_norm: called with the LayerNorm's name, its input and the padding mask [batch, sequence].
        """
        self.spec, self.weights, self.norm = spec, weights, norm
        self.round = round or (lambda _, value: value)
        self.before_norm = before_norm
        self.present = np.zeros((0, 0), dtype=bool)

    def weight(self, name: str) -> Array:
        """Return one weight in float64."""
        return np.asarray(self.weights[name], dtype=np.float64)

    def constant(self, step: str, value: float) -> Array:
        """Return a scalar constant, rounded as constants are."""
        return self.round(f"{step}/Constant", np.asarray(np.float32(value), dtype=np.float64))

    def linear(self, step: str, name: str, x: Array) -> Array:
        """X W^T + b, the product and the sum as two steps."""
        product = self.round(f"{step}/MatMul", x @ self.weight(f"{name}.weight").T)
        return self.round(f"{step}/Add", product + self.weight(f"{name}.bias"))

    def layer_norm(self, step: str, name: str, x: Array) -> Array:
        """(x - mean) / sqrt(variance + eps) * gamma + beta over the last axis."""
        if self.before_norm is not None:
            self.before_norm(name, x, self.present)
        gamma, beta = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        r = self.round
        if self.norm == "native":
            centered = x - x.mean(axis=-1, keepdims=True)
            variance = np.square(centered).mean(axis=-1, keepdims=True)
            normalized = centered / np.sqrt(variance + np.float32(EPSILON))
            return r(f"{step}/LayerNormalization", normalized * gamma + beta)
        centered = r(f"{step}/Sub", x - r(f"{step}/ReduceMean", x.mean(axis=-1, keepdims=True)))
        squares = r(f"{step}/Pow", np.square(centered))
        variance = r(f"{step}/ReduceMean_1", squares.mean(axis=-1, keepdims=True))
        deviation = r(f"{step}/Sqrt", np.sqrt(r(f"{step}/Add", variance + self.constant(step, EPSILON))))
        normalized = r(f"{step}/Div", centered / deviation)
        return r(f"{step}/Add_1", r(f"{step}/Mul", normalized * gamma) + beta)

    def softmax(self, step: str, x: Array) -> Array:
        """Softmax over the last axis, one step."""
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        return self.round(f"{step}/Softmax", powers / powers.sum(axis=-1, keepdims=True))

    def gelu(self, step: str, x: Array) -> Array:
        """X (1 + erf(x / sqrt 2)) / 2 in the exporter's five steps."""
        r = self.round
        inner = r(f"{step}/Erf", erf(r(f"{step}/Div", x / self.constant(step, math.sqrt(2)))))
        return r(f"{step}/Mul_1", r(f"{step}/Mul", x * r(f"{step}/Add", inner + 1.0)) * 0.5)

    def embed(self, ids: Array) -> Array:
        """Word + type 0 + position embedding, normalized: [batch, sequence, hidden]."""
        words = np.asarray(self.weights["embeddings.word_embeddings.weight"][ids], dtype=np.float64)
        types = self.weight("embeddings.token_type_embeddings.weight")[0]
        positions = self.weight("embeddings.position_embeddings.weight")[: ids.shape[1]]
        total = self.round("/embeddings/Add", words + types)
        total = self.round("/embeddings/Add_1", total + positions)
        return self.layer_norm("/embeddings/LayerNorm", "embeddings.LayerNorm", total)

    def attend(self, step: str, name: str, x: Array, mask: Array) -> Array:
        """Multi-head attention: softmax(Q K^T / sqrt(head size) + mask) V, heads joined again."""
        batch, sequence, hidden = x.shape
        r = self.round

        def heads(part: str) -> Array:
            y = self.linear(f"{step}/{part}", f"{name}.{part}", x)
            return y.reshape(batch, sequence, self.spec.heads, -1).transpose(0, 2, 1, 3)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = r(f"{step}/MatMul", query @ key.transpose(0, 1, 3, 2))
        scores = r(f"{step}/Div", scores / self.constant(step, math.sqrt(self.spec.head_size)))
        scores = r(f"{step}/Add", scores + mask)
        context = r(f"{step}/MatMul_1", self.softmax(step, scores) @ value)
        return context.transpose(0, 2, 1, 3).reshape(batch, sequence, hidden)

    def layer(self, index: int, x: Array, mask: Array) -> Array:
        """One encoder layer: attention and feed-forward, each with residual Add and LayerNorm after it."""
        step, name = f"/encoder/layer.{index}", f"encoder.layer.{index}"
        r = self.round
        attended = self.attend(f"{step}/attention/self", f"{name}.attention.self", x, mask)
        out = f"{step}/attention/output"
        y = self.linear(f"{out}/dense", f"{name}.attention.output.dense", attended)
        x = self.layer_norm(f"{out}/LayerNorm", f"{name}.attention.output.LayerNorm", r(f"{out}/Add", y + x))
        y = self.linear(f"{step}/intermediate/dense", f"{name}.intermediate.dense", x)
        y = self.gelu(f"{step}/intermediate/intermediate_act_fn", y)
        out = f"{step}/output"
        y = self.linear(f"{out}/dense", f"{name}.output.dense", y)
        return self.layer_norm(f"{out}/LayerNorm", f"{name}.output.LayerNorm", r(f"{out}/Add", y + x))

    def pooled(self, ids: Array) -> Array:
        """Return tanh(W h + b) of the first token after the last layer: [batch, hidden]."""
        self.present = ids != 0
        absent = 1.0 - self.present[:, None, None, :]
        mask = self.round("/Mul_1", absent * self.constant("", MASK))
        x = self.embed(ids)
        for index in range(self.spec.layers):
            x = self.layer(index, x, mask)
        dense = x[:, 0] @ self.weight("pooler.dense.weight").T + self.weight("pooler.dense.bias")
        return self.round("/pooler/activation/Tanh", np.tanh(self.round("/pooler/dense/Gemm", dense)))

    def classify(self, ids: Array) -> dict[str, Array]:
        """Return ``logits`` and ``probability``, [batch, 11]."""
        pooled = self.pooled(ids)
        logits = pooled @ self.weight("classifier.weight").T + self.weight("classifier.bias")
        logits = self.round("/classifier/Gemm", logits)
        return {"logits": logits, "probability": self.softmax("", logits)}


def forward(
    spec: BertSpec,
    weights: Mapping[str, Array],
    ids: Array,
    *,
    round: Round | None = None,
    norm: Norm = "native",
) -> dict[str, Array]:
    """Run the classifier with given weights in float64, a few rows at a time.

    Args:
      spec: the sizes.
      weights: as ``make_weights`` returns them, or rounded copies of those.
      ids: int64 [batch, sequence], 0 is padding.
      round: see ``Round``; None computes in float64.
      norm: whether LayerNorm is one step or nine; without rounding both are the same.

    Returns:
      ``logits`` and ``probability``, float64 [batch, 11].
    """
    run = Forward(spec, weights, round=round, norm=norm)
    with np.errstate(all="ignore"):  # overflow to inf and inf - inf are what a rounding hook is there to show
        parts = [run.classify(ids[at : at + _ROWS_AT_ONCE]) for at in range(0, len(ids), _ROWS_AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("logits", "probability")}
