"""The shipped transformers: pre-norm blocks with one projection for queries, keys and values."""

import math

import torch
from torch import nn


class Attention(nn.Module):
    """Self-attention over [batch, tokens, width]; `causal`: of tokens that are not later, for up to `causal` tokens."""

    def __init__(self, width, heads, causal=0):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.register_buffer("later", torch.ones(causal, causal, dtype=torch.bool).triu(1) if causal else None, persistent=False)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(self.size))
        if self.later is not None:
            scores = scores.masked_fill(self.later[:tokens, :tokens], -math.inf)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Attention and a two-layer network, each after a normalisation and added to what came in."""

    def __init__(self, width, heads, hidden, causal=0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Gpt(nn.Module):
    """Token ids [batch, tokens] to logits of the next token [batch, tokens, vocabulary], for up to `context` tokens."""

    def __init__(self, vocabulary, context, width, layers, heads, hidden):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList([Block(width, heads, hidden, causal=context) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.apply(start_small)

    def forward(self, ids):
        x = self.token(ids) + self.position(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class VisionTransformer(nn.Module):
    """Square grey images [batch, 1, side, side] to logits, through patches and a class token."""

    def __init__(self, side, patch, width, layers, heads, hidden, classes):
        super().__init__()
        self.patch = nn.Conv2d(1, width, patch, stride=patch)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + (side // patch) ** 2, width))
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def start_small(module):
    """Small normal weights and zero biases, so that a language model starts with all tokens about equally likely."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
