"""A BERT classifier in torch, written as transformers 4 writes it, to export and compare with.

The attribute names and the order of the calls in every ``forward`` follow
``transformers/models/bert/modeling_bert.py`` (eager attention, evaluation mode, no cache), because both
show in the exported graph: module paths become node names, call order becomes node order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Embeddings(nn.Module):
    """Word, position and token type embeddings, summed and normalized."""

    def __init__(self, vocabulary: int, positions: int, hidden: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, hidden, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, hidden)
        self.token_type_embeddings = nn.Embedding(2, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=1e-12)
        self.register_buffer("position_ids", torch.arange(positions).expand((1, -1)), persistent=False)
        self.register_buffer("token_type_ids", torch.zeros((1, positions), dtype=torch.long), persistent=False)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        seq_length = input_ids.size()[1]
        position_ids = self.position_ids[:, 0 : seq_length + 0]
        inputs_embeds = self.word_embeddings(input_ids)
        token_type_embeddings = self.token_type_embeddings(token_type_ids)
        embeddings = inputs_embeds + token_type_embeddings
        embeddings += self.position_embeddings(position_ids)
        return self.LayerNorm(embeddings)


class SelfAttention(nn.Module):
    """Q, K, V, the scaled and masked softmax, the context."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, hidden // heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        return x.view((*x.size()[:-1], self.heads, self.head_size)).permute(0, 2, 1, 3)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        mixed_query_layer = self.query(hidden_states)
        key_layer = self.transpose_for_scores(self.key(hidden_states))
        value_layer = self.transpose_for_scores(self.value(hidden_states))
        query_layer = self.transpose_for_scores(mixed_query_layer)
        scores = torch.matmul(query_layer, key_layer.transpose(-1, -2))
        scores = scores / math.sqrt(self.head_size)
        scores = scores + attention_mask
        probs = nn.functional.softmax(scores, dim=-1)
        context = torch.matmul(probs, value_layer).permute(0, 2, 1, 3).contiguous()
        return context.view((*context.size()[:-2], self.heads * self.head_size))


class AddAndNorm(nn.Module):
    """BertSelfOutput and BertOutput: dense, residual, LayerNorm."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        hidden_states = self.dense(hidden_states)
        return self.LayerNorm(hidden_states + input_tensor)


class Attention(nn.Module):
    """BertAttention: the attention is registered as ``self``."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.self = SelfAttention(hidden, heads)
        self.output = AddAndNorm(hidden, hidden)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        return self.output(self.self(hidden_states, attention_mask), hidden_states)


class GELUActivation(nn.Module):
    """The exact GELU, by erf."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)


class Intermediate(nn.Module):
    """BertIntermediate."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, intermediate)
        self.intermediate_act_fn = GELUActivation()

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(hidden_states))


class Layer(nn.Module):
    """BertLayer."""

    def __init__(self, hidden: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.attention = Attention(hidden, heads)
        self.intermediate = Intermediate(hidden, intermediate)
        self.output = AddAndNorm(intermediate, hidden)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        attention_output = self.attention(hidden_states, attention_mask)
        return self.output(self.intermediate(attention_output), attention_output)


class Encoder(nn.Module):
    """BertEncoder."""

    def __init__(self, layers: int, hidden: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(hidden, heads, intermediate) for _ in range(layers)])

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        for layer in self.layer:
            hidden_states = layer(hidden_states, attention_mask)
        return hidden_states


class Pooler(nn.Module):
    """BertPooler: the first token, dense, tanh."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.activation(self.dense(hidden_states[:, 0]))


class BertClassifier(nn.Module):
    """Token ids in, logits and probabilities out; the padding mask is made from the ids."""

    def __init__(
        self, layers: int, hidden: int, heads: int, intermediate: int, vocabulary: int, positions: int
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocabulary, positions, hidden)
        self.encoder = Encoder(layers, hidden, heads, intermediate)
        self.pooler = Pooler(hidden)
        self.classifier = nn.Linear(hidden, 11)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        attention_mask = input.ne(0)
        batch_size, seq_length = input.size()
        token_type_ids = self.embeddings.token_type_ids[:, :seq_length].expand(batch_size, seq_length)
        extended = attention_mask[:, None, None, :].to(dtype=torch.float32)
        extended = (1.0 - extended) * torch.finfo(torch.float32).min
        hidden = self.embeddings(input, token_type_ids)
        logits = self.classifier(self.pooler(self.encoder(hidden, extended)))
        return logits, nn.functional.softmax(logits, dim=-1)
