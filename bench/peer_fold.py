"""peer_fold.py - the hand-fused adapter layer of the PyTorch peers: what our own engine does, in PyTorch.

Folded once per step, one product forward and one backward; gradients of a, b, U, V come from sums and
skinny products, and no gradient of W' is ever made.  Used by peer_dit.py --fold and gpu/peer_dit_cuda.py.
"""
import math
import torch, torch.nn as nn, torch.nn.functional as F


class Fold(torch.autograd.Function):
    """y = x W'^T + bias + b, W' = diag(a) W + s U V.  docs/math.md derives the gradients."""
    @staticmethod
    def forward(ctx, x, W, bias, a, b, U, V, s):
        Wf = (a[:, None] * W + s * (U @ V)).to(W.dtype)
        y = F.linear(x, Wf, (bias + b).to(W.dtype))
        ctx.save_for_backward(x, y, Wf, bias, a, b, U, V)
        ctx.s = s
        return y

    @staticmethod
    def backward(ctx, dy):
        x, y, Wf, bias, a, b, U, V = ctx.saved_tensors
        s, kind = ctx.s, Wf.dtype
        dy = dy.to(kind)
        dx = dy @ Wf
        g, rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
        db = g.sum(0, dtype=torch.float32)
        gy = (g.float() * y.reshape(g.shape).float()).sum(0)
        G = (g.t() @ (rows @ V.to(kind).t())).float()
        dV = s * ((g @ U.to(kind)).t() @ rows).float()
        da = (gy - (bias + b) * db - s * (U * G).sum(1)) / a
        return dx, None, None, da, db, s * G, dV, None


class Folded(nn.Module):
    def __init__(self, base, r, kind):
        super().__init__()
        m, n = base.weight.shape
        self.register_buffer('W', base.weight.detach().to(kind))
        self.register_buffer('bias', base.bias.detach().float())
        self.a, self.b = nn.Parameter(torch.ones(m)), nn.Parameter(torch.zeros(m))
        self.V, self.U = nn.Parameter(torch.empty(r, n)), nn.Parameter(torch.zeros(m, r))
        nn.init.kaiming_uniform_(self.V, a=math.sqrt(5))

    def forward(self, x):
        return Fold.apply(x.to(self.W.dtype), self.W, self.bias, self.a, self.b, self.U, self.V, 1.0)
