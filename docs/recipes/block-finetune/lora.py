"""Low-rank adapters (Hu et al., arXiv:2106.09685) that disappear into the weights before they are saved."""

import math

import torch
from torch import nn

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """`W x + (alpha / rank) B A x` with `W` frozen; `B` begins at zero, so training begins at the model itself."""

    def __init__(self, inner, rank, alpha):
        super().__init__()
        self.inner, self.scale = inner, alpha / rank
        like = {"device": inner.weight.device, "dtype": torch.float32}
        self.a = nn.Parameter(torch.empty(rank, inner.in_features, **like))
        self.b = nn.Parameter(torch.zeros(inner.out_features, rank, **like))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x):
        low = nn.functional.linear(nn.functional.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
        return self.inner(x) + self.scale * low

    @torch.no_grad()
    def merged(self):
        """The plain layer that computes the same."""
        delta = self.scale * (self.b @ self.a)
        self.inner.weight.copy_(self.inner.weight.float() + delta)
        return self.inner


def layers(model, wanted):
    """`(parent, name, module)` of every module that `wanted` accepts."""
    found = []
    for parent in model.modules():
        found.extend((parent, name, child) for name, child in parent.named_children() if wanted(name, child))
    return found


def add(model, rank, alpha):
    """Freezes the model and puts an adapter beside every projection."""
    model.requires_grad_(False)
    for parent, name, child in layers(model, lambda name, child: name in TARGETS and isinstance(child, nn.Linear)):
        setattr(parent, name, LoraLinear(child, rank, alpha))


def merge(model):
    """Adds every adapter to its weights and takes it away."""
    for parent, name, child in layers(model, lambda _, child: isinstance(child, LoraLinear)):
        setattr(parent, name, child.merged())
