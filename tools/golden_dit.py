#!/usr/bin/env python3
"""Writes tests/golden/dit.safetensors: a small DiT with adapters in PyTorch, to be matched by the engine.

Development tool: needs Debian's python3-torch.  Usage: python3 tools/golden_dit.py tests/golden/dit.safetensors
Per variant (out, in, relu, full, bitfit): model output, hybrid loss per sample, every gradient, and the trained
parameters after 10 AdamW steps on one fixed batch; what the file has already keeps its bits.  The model is written here from the published formulas
(DiT, improved diffusion, the Affiner of DESIGN) in float64, so the file is a reference, not a peer.
"""
import json, math, os, struct, sys
import torch

torch.manual_seed(20240914)
F64 = torch.float64
C, S, P, D, DEPTH, H, CLASSES, ROWS, RANK, FREQ, T = 3, 8, 2, 24, 2, 3, 5, 3, 4, 32, 1000
B, LR = 4, 1e-3
GRID = S // P
OUT = 2 * C


def base_tensors():
    shapes = {'pos_embed': (1, GRID * GRID, D), 'x_embedder.proj.weight': (D, C, P, P), 'x_embedder.proj.bias': (D,),
              't_embedder.mlp.0.weight': (D, FREQ), 't_embedder.mlp.0.bias': (D,), 't_embedder.mlp.2.weight': (D, D),
              't_embedder.mlp.2.bias': (D,), 'y_embedder.embedding_table.weight': (CLASSES + 1, D)}
    for i in range(DEPTH):
        for n, m, k in (('attn.qkv', 3 * D, D), ('attn.proj', D, D), ('mlp.fc1', 4 * D, D), ('mlp.fc2', D, 4 * D),
                        ('adaLN_modulation.1', 6 * D, D)):
            shapes['blocks.%d.%s.weight' % (i, n)] = (m, k)
            shapes['blocks.%d.%s.bias' % (i, n)] = (m,)
    for n, m in (('final_layer.linear', P * P * OUT), ('final_layer.adaLN_modulation.1', 2 * D)):
        shapes[n + '.weight'] = (m, D)
        shapes[n + '.bias'] = (m,)
    out = {}
    for k, s in shapes.items():
        std = 0.1 if k.endswith('bias') else (1.0 / math.sqrt(math.prod(s[1:])) if len(s) > 1 else 0.1)
        out[k] = (torch.randn(s) * std).float()
    pos = torch.zeros(GRID * GRID, D, dtype=F64)
    w = 10000.0 ** (-torch.arange(D // 4, dtype=F64) / (D / 4))
    for r in range(GRID):
        for c in range(GRID):
            pos[r * GRID + c] = torch.cat([(c * w).sin(), (c * w).cos(), (r * w).sin(), (r * w).cos()])
    out['pos_embed'] = pos.float()[None]
    return out


BASE = base_tensors()


def linears():
    yield 'x_embedder.proj', 1
    yield 't_embedder.mlp.0', 1
    yield 't_embedder.mlp.2', 1
    for i in range(DEPTH):
        for n in ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2', 'adaLN_modulation.1'):
            yield 'blocks.%d.%s' % (i, n), 3 if n == 'attn.qkv' else 1
    yield 'final_layer.linear', 1
    yield 'final_layer.adaLN_modulation.1', 1


def parts(name, segs):
    return [name[:-3] + c for c in 'qkv'] if segs == 3 else [name]


def start(variant):
    p = {}
    if variant == 'full':
        p = {k: v.clone() for k, v in BASE.items() if k != 'pos_embed'}
    elif variant == 'bitfit':
        p = {k: v.clone() for k, v in BASE.items() if k.endswith('.bias')}
    else:
        for name, segs in linears():
            w = BASE[name + '.weight']
            m, n = w.shape[0] // segs, w[0].numel()
            side = n if variant == 'in' else m
            if variant == 'in':
                p[name + '.a'] = 1 + 0.2 * torch.randn(side)
                p[name + '.b'] = 0.1 * torch.randn(side)
            for part in parts(name, segs):
                if variant != 'in':
                    p[part + '.a'] = 1 + 0.2 * torch.randn(side)
                    p[part + '.b'] = 0.1 * torch.randn(side)
                p[part + '.s'] = 0.5 * torch.randn(1)
                p[part + '.U'] = torch.randn(m, RANK) * math.sqrt(2 / RANK)
                p[part + '.V'] = torch.randn(RANK, n) * math.sqrt(2 / n)
    if variant == 'in':  # the q, k, v parts share one a and b, named after q
        for i in range(DEPTH):
            for s in 'ab':
                p['blocks.%d.attn.q.%s' % (i, s)] = p.pop('blocks.%d.attn.qkv.%s' % (i, s))
    p['y_embedder.rows'] = 0.5 * torch.randn(ROWS, D)
    return {k: v.float() for k, v in p.items()}


REPLACING = ('full', 'bitfit')  # methods whose tensors take the place of the base's


class Model:
    def __init__(self, variant, p):
        self.v, self.p = variant, p

    def w(self, name):
        return self.p[name] if self.v in REPLACING and name in self.p else BASE[name].to(F64)

    def lin(self, name, x, segs=1):
        w, b = self.w(name + '.weight'), self.w(name + '.bias')
        w = w.reshape(w.shape[0], -1)
        if self.v in REPLACING:
            return x @ w.T + b
        q = self.p
        names = parts(name, segs)
        act = torch.relu if self.v == 'relu' else (lambda z: z)
        low = torch.cat([q[n + '.s'] * (act(x @ q[n + '.V'].T) @ q[n + '.U'].T) for n in names], -1)
        if self.v == 'in':
            return (q[names[0] + '.a'] * x + q[names[0] + '.b']) @ w.T + b + low
        a = torch.cat([q[n + '.a'] for n in names])
        return a * (x @ w.T) + b + torch.cat([q[n + '.b'] for n in names]) + low

    def forward(self, x, t, row, base_row):
        n = x.shape[0]
        tok = x.reshape(n, C, GRID, P, GRID, P).permute(0, 2, 4, 1, 3, 5).reshape(n, GRID * GRID, C * P * P)
        h = self.lin('x_embedder.proj', tok) + BASE['pos_embed'].to(F64)
        half = FREQ // 2
        f = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=F64) / half)
        emb = torch.cat([(t[:, None] * f).cos(), (t[:, None] * f).sin()], 1)
        silu = torch.nn.functional.silu
        c = self.lin('t_embedder.mlp.2', silu(self.lin('t_embedder.mlp.0', emb)))
        table = self.w('y_embedder.embedding_table.weight')
        c = c + torch.stack([self.p['y_embedder.rows'][r] if r >= 0 else table[b] for r, b in zip(row, base_row)])
        sc = silu(c)
        ln = lambda z: torch.nn.functional.layer_norm(z, (D,), eps=1e-6)
        mod = lambda z, s, k: ln(z) * (1 + k[:, None]) + s[:, None]
        for i in range(DEPTH):
            pre = 'blocks.%d.' % i
            s1, k1, g1, s2, k2, g2 = self.lin(pre + 'adaLN_modulation.1', sc).chunk(6, 1)
            qkv = self.lin(pre + 'attn.qkv', mod(h, s1, k1), 3).reshape(n, -1, 3, H, D // H).permute(2, 0, 3, 1, 4)
            a = ((qkv[0] @ qkv[1].transpose(-1, -2)) / math.sqrt(D // H)).softmax(-1) @ qkv[2]
            h = h + g1[:, None] * self.lin(pre + 'attn.proj', a.transpose(1, 2).reshape(n, -1, D))
            z = self.lin(pre + 'mlp.fc1', mod(h, s2, k2))
            z = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z ** 3)))
            h = h + g2[:, None] * self.lin(pre + 'mlp.fc2', z)
        s, k = self.lin('final_layer.adaLN_modulation.1', sc).chunk(2, 1)
        o = self.lin('final_layer.linear', mod(h, s, k))
        return o.reshape(n, GRID, GRID, P, P, OUT).permute(0, 5, 1, 3, 2, 4).reshape(n, OUT, S, S)


betas = torch.linspace(1e-4, 2e-2, T, dtype=F64)
ac = torch.cumprod(1 - betas, 0)
acp = torch.cat([torch.ones(1, dtype=F64), ac[:-1]])
pv = betas * (1 - acp) / (1 - ac)
plv = torch.log(torch.cat([pv[1:2], pv[1:]]))
c1, c2 = betas * acp.sqrt() / (1 - ac), (1 - acp) * (1 - betas).sqrt() / (1 - ac)


def cdf(x):
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def losses(out, x0, noise, xt, t):
    eps, v = out.chunk(2, 1)
    g = lambda a: a[t][:, None, None, None]
    e = eps.detach()
    px0 = g((1 / ac).sqrt()) * xt - g((1 / ac - 1).sqrt()) * e
    m1, m2 = g(c1) * x0 + g(c2) * xt, g(c1) * px0 + g(c2) * xt
    f = (v + 1) / 2
    l1, l2 = g(plv), f * g(betas.log()) + (1 - f) * g(plv)
    kl = 0.5 * (-1 + l2 - l1 + torch.exp(l1 - l2) + (m1 - m2) ** 2 * torch.exp(-l2))
    inv = torch.exp(-0.5 * l2)
    hi, lo = cdf(inv * (x0 - m2 + 1 / 255)), cdf(inv * (x0 - m2 - 1 / 255))
    tiny = torch.tensor(1e-12, dtype=F64)
    lp = torch.where(x0 < -0.999, torch.log(torch.maximum(hi, tiny)),
                     torch.where(x0 > 0.999, torch.log(torch.maximum(1 - lo, tiny)), torch.log(torch.maximum(hi - lo, tiny))))
    vb = torch.where((t == 0)[:, None, None, None], -lp, kl).mean((1, 2, 3)) / math.log(2)
    return ((noise - eps) ** 2).mean((1, 2, 3)), vb


# ---- samplers: the project's random numbers (base/rng.h) again, and the three samplers in float64
def philox(seed, stream, step, sample, block):
    c = [block, step & 0xffffffff, sample & 0xffffffff, stream ^ (((sample >> 32) * 0x9E3779B9) & 0xffffffff)]
    k = [seed & 0xffffffff, seed >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xffffffff, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xffffffff]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return c


def normals(n, seed, stream, step, sample):
    out = []
    for b in range((n + 3) // 4):
        w = philox(seed, stream, step, sample, b)
        for i in (0, 2):
            r = math.sqrt(-2 * math.log((w[i] + 0.5) * 2.0 ** -32))
            out += [r * math.cos(2 * math.pi * w[i + 1] * 2.0 ** -32), r * math.sin(2 * math.pi * w[i + 1] * 2.0 ** -32)]
    return torch.tensor(out[:n], dtype=F64)


def sample(kind, mode, pixel, steps, weights, seed, index, label, model, base):
    n = C * S * S
    ts = [round((T - 1) / (steps - 1) * i) for i in range(steps)]
    bar, prev = ac[ts], torch.cat([torch.ones(1, dtype=F64), ac[ts][:-1]])
    beta = 1 - bar / prev
    var = beta * (1 - prev) / (1 - bar)
    lpv = torch.log(torch.cat([var[1:2], var[1:]]))
    x = normals(n, seed, 7, 0xffffffff, index).reshape(1, C, S, S)
    old = None
    for k in reversed(range(steps)):
        t = torch.tensor([float(ts[k])], dtype=F64)
        out = model.forward(x, t, [label], [-1])
        eps, v = out.chunk(2, 1)
        if mode != 'none':
            null, u = [m.forward(x, t, [-1], [CLASSES]).chunk(2, 1)[0] for m in (model, base)]
            eps = u + weights[0] * (null - u) + weights[1] * (eps - null)
        a, b = bar[k].sqrt(), (1 - bar[k]).sqrt()
        x0 = (x - b * eps) / a
        if pixel:
            x0 = x0.clamp(-1, 1)
            eps = (x - a * x0) / b
        if kind == 'ddpm':
            mean = beta[k] * prev[k].sqrt() / (1 - bar[k]) * x0 + (1 - prev[k]) * (1 - beta[k]).sqrt() / (1 - bar[k]) * x
            f = (v + 1) / 2
            lv = f * beta[k].log() + (1 - f) * lpv[k]
            x = mean + (torch.exp(0.5 * lv) * normals(n, seed, 7, ts[k], index).reshape(1, C, S, S) if k else 0)
        elif kind == 'ddim':
            x = prev[k].sqrt() * x0 + (1 - prev[k]).sqrt() * eps
        elif k == 0:
            x = x0
        else:
            lam = lambda i: 0.5 * torch.log(bar[i] / (1 - bar[i]))
            h = lam(k - 1) - lam(k)
            d = x0
            if old is not None:
                q = (lam(k) - lam(k + 1)) / h
                d = (1 + 1 / (2 * q)) * x0 - 1 / (2 * q) * old
            x = ((1 - bar[k - 1]) / (1 - bar[k])).sqrt() * x - bar[k - 1].sqrt() * torch.expm1(-h) * d
            old = x0
    return x[0]


def samples(store, p):
    with torch.no_grad():
        q = {k: v.to(F64) for k, v in p.items()}
        model, base = Model('out', q), Model('full', {'y_embedder.rows': q['y_embedder.rows']})
        # many steps for ddpm: over long strides an untrained variance head spans many powers of e
        w = {'none': (1, 1), 'cfg': (1, 1.7), 'domain': (1.7, 1.7), 'both': (1.4, 2)}
        for kind, mode, pixel, steps in (('ddpm', 'cfg', 0, 60), ('ddim', 'domain', 0, 6), ('dpmpp2m', 'none', 0, 6),
                                         ('dpmpp2m', 'cfg', 1, 6), ('ddim', 'both', 0, 6), ('dpmpp2m', 'both', 1, 6)):
            store['sample.%s.%s.%d' % (kind, mode, pixel)] = sample(kind, mode, pixel, steps, w[mode], 2 ** 33 + 5, 7, 1, model, base)


# ---- flows: SiT's transport (Ma et al. 2024) in its own time s, 0 noise and 1 data, the velocity towards the data
def path_of(name, s):
    """alpha, sigma and their derivatives by s."""
    if name == 'linear':
        return s, 1 - s, 1.0, -1.0
    h = math.pi / 2
    return math.sin(h * s), math.cos(h * s), h * math.cos(h * s), -h * math.sin(h * s)


def flow_sample(kind, path, to_data, scale, mode, pixel, steps, w, seed, index, label, model, base):
    def velocity(x, s):
        told = torch.tensor([(s if to_data else 1 - s) * scale], dtype=F64)
        v = model.forward(x, told, [label], [-1]).chunk(2, 1)[0]
        if mode != 'none':
            u = (model if mode == 'cfg' else base).forward(x, told, [-1], [CLASSES]).chunk(2, 1)[0]
            v = u + w * (v - u)
        v = v if to_data else -v
        if pixel and s < 1:  # the velocity of the picture that is clipped
            al, si, da, ds = path_of(path, s)
            x1 = ((si * v - ds * x) / (si * da - ds * al)).clamp(-1, 1)
            v = da * x1 + ds * (x - al * x1) / si
        return v

    x = normals(C * S * S, seed, 7, 0xffffffff, index).reshape(1, C, S, S)
    lam = lambda s: math.log(path_of(path, s)[0] / path_of(path, s)[1])
    old = None
    for k in reversed(range(steps)):
        s, n = (steps - 1 - k) / steps, (steps - k) / steps
        v, h = velocity(x, s), 1.0 / steps
        al, si, da, ds = path_of(path, s)
        if kind == 'euler':
            x = x + h * v
        elif kind == 'heun':
            x = x + h * (v if k == 0 else (v + velocity(x + h * v, n)) / 2)
        elif kind == 'sde':
            ratio = al / da  # get_score_from_velocity
            score = (ratio * v - x) / (si * si - ratio * ds * si)
            x = x + h * (v + (0.5 * si * score if k else 0))
            if k:
                x = x + math.sqrt(si * h) * normals(C * S * S, seed, 7, k, index).reshape(1, C, S, S)
        else:
            x1 = (si * v - ds * x) / (si * da - ds * al)
            if k == 0:
                x = x1
                continue
            d = x1
            if s > 0:
                gap = lam(n) - lam(s)
                if (steps - 2 - k) > 0:
                    q = (lam(s) - lam((steps - 2 - k) / steps)) / gap
                    d = (1 + 1 / (2 * q)) * x1 - 1 / (2 * q) * old
                x = path_of(path, n)[1] / si * x - path_of(path, n)[0] * math.expm1(-gap) * d
            else:
                x = path_of(path, n)[1] * x + path_of(path, n)[0] * x1
            old = x1
    return x[0]


FLOW_SAMPLES = (('euler', 'linear', 1, 1, 'none', 0, 6), ('heun', 'gvp', 1, 1, 'cfg', 0, 5), ('sde', 'linear', 0, 1000, 'domain', 0, 8),
                ('sde', 'gvp', 1, 1, 'none', 1, 8), ('dpmpp2m', 'linear', 0, 1, 'none', 0, 6), ('dpmpp2m', 'gvp', 1, 1000, 'cfg', 1, 6),
                ('heun', 'linear', 0, 1000, 'none', 1, 5))


def flows(store, p, x0, noise, row, base_row):
    """Samples; and output, loss and gradients of one batch on each path, in SiT's direction and in the other."""
    q = {k: v.to(F64) for k, v in p.items()}
    with torch.no_grad():
        model, base = Model('out', q), Model('full', {'y_embedder.rows': q['y_embedder.rows']})
        for run in FLOW_SAMPLES:
            kind, path, to_data, scale, mode, pixel, steps = run
            store['flow.%s.%s.%d' % (kind, path, to_data)] = flow_sample(*run, 1.7, 2 ** 33 + 5, 7, 1, model, base)
    for path, to_data in (('linear', 0), ('gvp', 1)):
        grad = {k: v.clone().requires_grad_(True) for k, v in q.items()}
        at = [path_of(path, 1 - u) for u in FLOW_LEVELS]
        g = lambda i: torch.tensor([a[i] for a in at], dtype=F64)[:, None, None, None]
        x, e = x0.to(F64), noise.to(F64)
        want = (g(2) * x + g(3) * e) * (1 if to_data else -1)
        t = torch.tensor([(1 - u if to_data else u) * 1000.0 for u in FLOW_LEVELS], dtype=F64)
        out = Model('out', grad).forward((g(0) * x + g(1) * e), t, row, base_row)
        mse = ((out.chunk(2, 1)[0] - want) ** 2).mean((1, 2, 3))
        mse.mean().backward()
        name = 'flow.loss.%s.' % path
        store[name + 'output'], store[name + 'mse'] = out.detach(), mse.detach()
        for k in grad:
            store[name + 'grad.' + k] = grad[k].grad


FLOW_LEVELS = [0.05, 0.375, 0.5, 0.96]


def keep(store, path):
    """What the file has stays, to the bit, where it is the same within the rounding of another PyTorch."""
    if not os.path.exists(path):
        return
    raw = open(path, 'rb').read()
    n = struct.unpack('<Q', raw[:8])[0]
    for k, e in json.loads(raw[8:8 + n]).items():
        was = torch.frombuffer(bytearray(raw[8 + n + e['data_offsets'][0]:8 + n + e['data_offsets'][1]]), dtype=torch.float32)
        now = store[k].detach().float().reshape(-1)
        assert (was - now).abs().max() <= 1e-6 * now.abs().max() + 1e-12, k
        store[k] = was.reshape(store[k].shape)


def main():
    store = {'base.' + k: v for k, v in BASE.items()}
    x0 = (torch.rand(B, C, S, S) * 2 - 1).float()
    x0[0, 0, 0, 0], x0[0, 0, 0, 1] = -1.0, 1.0  # the open ends of the discretised likelihood
    noise = torch.randn(B, C, S, S).float()
    t = torch.tensor([0, 37, 500, 999])
    row, base_row = [0, -1, 2, 0], [-1, CLASSES, -1, -1]
    sa, sb = ac.sqrt().float()[t][:, None, None, None], (1 - ac).sqrt().float()[t][:, None, None, None]
    xt = (sa * x0 + sb * noise).float()
    store.update(x0=x0, noise=noise, xt=xt, t=t.float())
    for variant in ('out', 'in', 'relu', 'full', 'bitfit'):
        p0 = start(variant)
        p = {k: v.to(F64).requires_grad_(True) for k, v in p0.items()}
        opt = torch.optim.AdamW(list(p.values()), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
        model = Model(variant, p)
        if variant == 'out':
            samples(store, p0)
            flows(store, p0, x0, noise, row, base_row)
        for step in range(10):
            out = model.forward(xt.to(F64), t.to(F64), row, base_row)
            mse, vb = losses(out, x0.to(F64), noise.to(F64), xt.to(F64), t)
            opt.zero_grad()
            (mse + vb).mean().backward()
            if step == 0:
                store[variant + '.output'], store[variant + '.mse'], store[variant + '.vb'] = out.detach(), mse.detach(), vb.detach()
                for k in p:
                    if variant not in REPLACING:
                        store['%s.start.%s' % (variant, k)] = p0[k]
                    store['%s.grad.%s' % (variant, k)] = p[k].grad.clone()
                if variant in REPLACING:
                    store[variant + '.start.y_embedder.rows'] = p0['y_embedder.rows']
            opt.step()
        for k in p:
            store['%s.after.%s' % (variant, k)] = p[k].detach()
    keep(store, sys.argv[1])
    header, blobs, at = {}, [], 0
    for k, v in store.items():
        b = v.detach().float().contiguous().numpy().tobytes()
        header[k] = {'dtype': 'F32', 'shape': list(v.shape), 'data_offsets': [at, at + len(b)]}
        blobs.append(b)
        at += len(b)
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(sys.argv[1], 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + b''.join(blobs))
    print('%d tensors, %d bytes, torch %s' % (len(store), 8 + len(text) + at, torch.__version__))


main()
