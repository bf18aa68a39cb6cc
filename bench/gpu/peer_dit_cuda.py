#!/usr/bin/env python3
"""peer_dit_cuda.py - the same work as bench_gpu.c in PyTorch, as fast as we can make it there.

  peer_dit_cuda.py --budget 400                   all runs by importance, until the time is used up
  peer_dit_cuda.py --budget 230 --stage first     those that every row of the table needs; rest: the others
  peer_dit_cuda.py --run MODE PART ...            one process: MODE is words joined by +
  peer_dit_cuda.py --device cpu --tiny --budget 120     tries the script without a GPU

Model, loss and diffusion are those of bench/peer_dit.py: bf16 (frozen weights held in bf16, the rest
by autocast), scaled_dot_product_attention, fused AdamW.  Words of a mode:

  peft      an adapter computes beside each layer: a (W x) + b + s U V x
  folded    hand-fused as our own engine does it: W' = diag(a) W + s U V once per step, one product
            forward and one backward, gradients of a, b, U, V from sums and skinny products
            (torch.autograd.Function); no gradient of W' is ever made
  compile   torch.compile of each block (one compilation serves all of them)
  max       the same with mode max-autotune-no-cudagraphs
  graph     the whole step, optimiser included, in one CUDA graph
  cudnn     attention by cuDNN, where PyTorch would take its own FlashAttention
  last, pinned, b64   Inception only: channels last with algorithms chosen by the clock, from pinned memory, 64 pictures
            instead of the 50 of pytorch-fid
  (none)    eager; for Inception what pytorch-fid does

The peer has less to do: no EMA, no clipping of the gradient norm, one V for q, k and v, no gradient of
s, images that lie on the GPU already.  Best mode counts.  Memory: torch.cuda.max_memory_allocated,
without the allocator's reserve and the context.  Each mode is a process with a time limit, because
compilations can hang; what did not run is said, and why: a part that does not fit into memory costs
that part alone.
"""
import argparse, gc, json, math, os, signal, statistics, subprocess, sys, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

# mode, parts, limit in seconds; most important first.  Quick modes stand before those that compile, so
# that every row has a figure of PyTorch early.
FIRST = [('folded+graph', ['train-64', 'train-32', 'train-128'], 60),
         ('eager', ['gemm', 'small', 'inception', 'inception-8bit', 'inception-f32'], 60),
         ('graph', ['sample'], 30),
         ('folded+compile+graph', ['train-64', 'train-32', 'train-128'], 150),
         ('compile+graph', ['sample'], 60),
         ('b64+last+pinned', ['inception', 'inception-8bit'], 40),
         ('peft+graph', ['train-64'], 30)]
REST = [('folded+max+graph', ['train-64'], 180),
        ('folded+compile+cudnn+graph', ['train-64'], 60),
        ('peft+compile+graph', ['train-64', 'small'], 90),
        ('max+graph', ['sample'], 120),
        ('b64+last+pinned+compile', ['inception'], 90),
        ('folded+max+graph', ['train-32', 'train-128'], 240),
        ('peft', ['train-64'], 30)]
STAGES = {'first': FIRST, 'rest': REST, 'all': FIRST + REST}


def say(**what):
    print(json.dumps(what), flush=True)


# ---------------------------------------------------------------- adapters
def make_beside():
    import torch, torch.nn as nn, torch.nn.functional as F

    class Beside(nn.Module):
        """As PEFT does: the adapter's own products beside the frozen layer's, all in bf16."""
        def __init__(self, base, r, kind):
            super().__init__()
            self.base = base.to(kind)
            m, n = base.weight.shape
            self.a, self.b = nn.Parameter(torch.ones(m)), nn.Parameter(torch.zeros(m))
            self.V, self.U = nn.Parameter(torch.empty(r, n)), nn.Parameter(torch.zeros(m, r))
            nn.init.kaiming_uniform_(self.V, a=math.sqrt(5))

        def forward(self, x):
            kind = self.base.weight.dtype
            x = x.to(kind)
            return self.base(x) * self.a.to(kind) + self.b.to(kind) + F.linear(F.linear(x, self.V.to(kind)), self.U.to(kind))

    return Beside


def adapt(mod, cls, r, kind):
    import torch.nn as nn
    import peer_dit
    for name, child in list(mod.named_children()):
        if isinstance(child, nn.Linear):
            setattr(mod, name, cls(child, r, kind))
        elif isinstance(child, nn.Conv2d):
            setattr(mod, name, peer_dit.Affiner(child, r, float(r), kind))
        elif not isinstance(child, (cls, peer_dit.Affiner)):
            adapt(child, cls, r, kind)


# ---------------------------------------------------------------- Inception v3 as pytorch-fid has it
def inception():
    import torch, torch.nn as nn, torch.nn.functional as F

    class Conv(nn.Module):
        def __init__(self, i, o, k, s=1, p=0):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(i, o, k, s, p, bias=False), nn.BatchNorm2d(o, eps=1e-3)

        def forward(self, x):
            return F.relu(self.bn(self.conv(x)), inplace=True)

    def seq(i, *layers):
        out = []
        for o, k, *more in layers:
            out.append(Conv(i, o, k, *more))
            i = o
        return nn.Sequential(*out)

    def average(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    class Mixed(nn.Module):
        """Branches side by side; `pool` stands before the last one, or is a branch of its own."""
        def __init__(self, branches, pool=None, last=None, split=()):
            super().__init__()
            self.branches, self.last = nn.ModuleList(branches), last
            self.pool, self.split = pool, nn.ModuleList(nn.ModuleList(s) for s in split)

        def forward(self, x):
            out = [b(x) for b in self.branches]
            for stem, one, two in self.split:
                h = stem(x)
                out += [one(h), two(h)]
            if self.pool:
                p = self.pool(x)
                out.append(self.last(p) if self.last is not None else p)
            return torch.cat(out, 1)

    def biggest(x):
        return F.max_pool2d(x, 3, 2)

    def a(i, p):
        return Mixed([Conv(i, 64, 1), seq(i, (48, 1), (64, 5, 1, 2)), seq(i, (64, 1), (96, 3, 1, 1), (96, 3, 1, 1))],
                     average, Conv(i, p, 1))

    def c(w):
        h, v = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        return Mixed([Conv(768, 192, 1), seq(768, (w, 1), (w, *h), (192, *v)),
                      seq(768, (w, 1), (w, *v), (w, *h), (w, *v), (192, *h))], average, Conv(768, 192, 1))

    def e(i, pool):
        pair = lambda: [Conv(384, 384, (1, 3), 1, (0, 1)), Conv(384, 384, (3, 1), 1, (1, 0))]
        return Mixed([Conv(i, 320, 1)], pool, Conv(i, 192, 1),
                     [[Conv(i, 384, 1)] + pair(), [seq(i, (448, 1), (384, 3, 1, 1))] + pair()])

    class Pool(nn.Module):
        def forward(self, x):
            return biggest(x)
    return nn.Sequential(
        Conv(3, 32, 3, 2), Conv(32, 32, 3), Conv(32, 64, 3, 1, 1), Pool(), Conv(64, 80, 1), Conv(80, 192, 3), Pool(),
        a(192, 32), a(256, 64), a(288, 64),
        Mixed([Conv(288, 384, 3, 2), seq(288, (64, 1), (96, 3, 1, 1), (96, 3, 2))], biggest),
        c(128), c(160), c(160), c(192),
        Mixed([seq(768, (192, 1), (320, 3, 2)), seq(768, (192, 1), (192, (1, 7), 1, (0, 3)), (192, (7, 1), 1, (3, 0)), (192, 3, 2))], biggest),
        e(1280, average), e(2048, lambda x: F.max_pool2d(x, 3, 1, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten())


# ---------------------------------------------------------------- timing
class Bench:
    def __init__(self, args, mode):
        import torch
        self.torch, self.args, self.mode, self.words = torch, args, mode, mode.split('+')
        self.dev, self.cuda = torch.device(args.device), args.device != 'cpu'
        if self.cuda:
            torch.backends.cuda.matmul.allow_tf32 = True
        if self.cuda and 'cudnn' in self.words:  # the products of the plain way stay, where cuDNN cannot
            torch.backends.cuda.enable_cudnn_sdp(True)
            torch.backends.cuda.enable_flash_sdp(False)
            torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch._dynamo.config.cache_size_limit = 64

    def sync(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def time(self, step, seconds=2.5, most=30, group=1):
        """Milliseconds of a step, several times.  group: so many steps between two waits."""
        for _ in range(3):
            step()
        self.sync()
        out, start = [], time.perf_counter()
        while len(out) < most and (len(out) < 3 or time.perf_counter() - start < seconds):
            t = time.perf_counter()
            for _ in range(group):
                step()
            self.sync()
            out.append((time.perf_counter() - t) * 1e3 / group)
        return out

    def graph(self, step, before=None):
        """step as one CUDA graph; before: what must be done once right before it is recorded."""
        torch = self.torch
        if 'graph' not in self.words or not self.cuda:
            return step
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        if before:
            before()
        g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g):
            step()
        return g.replay

    def compiled(self, net):
        if 'compile' in self.words or 'max' in self.words:
            mode = 'max-autotune-no-cudagraphs' if 'max' in self.words and self.cuda else 'default'
            for b in net.blocks:
                b.compile(mode=mode, dynamic=False)
        return net

    def report(self, part, ms, count, **more):
        torch = self.torch
        memory = dict(memory_MB=round(torch.cuda.max_memory_allocated() / 1e6),
                      reserved_MB=round(torch.cuda.max_memory_reserved() / 1e6)) if self.cuda else {}
        median = statistics.median(ms)
        say(who='pytorch', part=part, mode=self.mode, torch=torch.__version__,
            device=torch.cuda.get_device_name() if self.cuda else 'cpu', ms=round(median, 4), ms_min=round(min(ms), 4),
            timed=len(ms), img_s=round(count / median * 1e3, 3), **memory, **more)

    # -------------------------------------------------------------- parts
    def model(self, small):
        import peer_dit
        kind = self.torch.bfloat16
        config = (2, 48, 2, 2, 8, 4) if self.args.tiny else peer_dit.MODELS['tiny' if small else 'XL/2']
        classes = 10 if self.args.tiny else 1000
        self.torch.manual_seed(0)
        with self.dev:  # 675 million random numbers take the processor ten seconds
            return peer_dit, config, classes, kind, peer_dit.DiT(*config, classes=classes)

    def train(self, part, batch, small=False):
        torch = self.torch
        peer_dit, config, classes, kind, net = self.model(small)
        for p in net.parameters():
            p.requires_grad_(False)
        import peer_fold
        adapt(net, peer_fold.Folded if 'folded' in self.words else make_beside(), 8, kind)
        net.y_emb.weight.requires_grad_(True)
        net = self.compiled(net.to(self.dev).train())
        par = [p for p in net.parameters() if p.requires_grad]
        opt = torch.optim.AdamW(par, lr=1e-4, weight_decay=0, fused=True, capturable=self.cuda)
        dif = peer_dit.Diffusion(self.dev)
        x = torch.randn(batch, config[5], config[4], config[4], device=self.dev)
        y = torch.randint(0, classes, (batch,), device=self.dev)

        def step():
            with torch.autocast(self.dev.type, kind):
                loss = dif.loss(net, x, y)
            loss.backward()
            opt.step()
            if recording[0]:  # in a graph gradients are written anew by each replay
                opt.zero_grad(set_to_none=True)

        recording = [True]

        def record():
            opt.zero_grad(set_to_none=True)
            recording[0] = False
        self.report(part, self.time(self.graph(step, record), group=4), batch, batch=batch)

    def sample(self, part, batch):
        torch = self.torch
        peer_dit, config, classes, kind, net = self.model(False)
        net = self.compiled(net.to(self.dev).to(kind).eval())
        net.drop = 0
        dif = peer_dit.Diffusion(self.dev)
        x = torch.randn(batch, config[5], config[4], config[4], device=self.dev)
        y = torch.randint(0, classes, (batch,), device=self.dev)

        def step():
            with torch.autocast(self.dev.type, kind):
                x.copy_(dif.step(net, x, 500, y, classes, 4.0).clamp(-4, 4))
        with torch.no_grad():
            self.report(part, self.time(self.graph(step)), batch, batch=batch)

    def gemm(self, part, n):
        torch = self.torch
        a, b = (torch.randn(n, n, device=self.dev, dtype=torch.bfloat16) for _ in range(2))

        def step():
            for _ in range(10):
                torch.mm(a, b)
        ms = [t / 10 for t in self.time(step)]
        self.report(part, ms, 1, tflop_s=round(2e-9 * n ** 3 / statistics.median(ms), 2))

    def features(self, part, batch):
        """From host memory to host memory.  Convolutions take TF32 unless part ends in -f32, as PyTorch has it by default.
        -8bit: 64 x 64 bytes go up, and are resized on the GPU as pytorch-fid does."""
        torch = self.torch
        import torch.nn.functional as F
        if self.cuda:
            torch.backends.cudnn.allow_tf32 = not part.endswith('-f32')
            torch.backends.cudnn.benchmark = 'last' in self.words
        net = inception().to(self.dev).eval()
        if 'last' in self.words:
            net = net.to(memory_format=torch.channels_last)
        if 'compile' in self.words:
            net = torch.compile(net, dynamic=False)
        small = part.endswith('-8bit')
        x = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8) if small else torch.rand(batch, 3, 299, 299)
        if 'pinned' in self.words and self.cuda:
            x = x.pin_memory()

        def step():
            with torch.no_grad():
                y = x.to(self.dev, non_blocking=True)
                if small:
                    y = 2 * F.interpolate(y.float() / 255, size=(299, 299), mode='bilinear', align_corners=False) - 1
                if 'last' in self.words:
                    y = y.contiguous(memory_format=torch.channels_last)
                net(y).cpu().numpy()
        self.report(part, self.time(step), batch, batch=batch)

    def run(self, part):
        tiny = self.args.tiny
        if self.cuda:
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()
        self.torch._dynamo.reset()
        if part.startswith('train-'):
            self.train(part, int(part[6:]) if not tiny else 4)
        elif part == 'small':
            self.train(part, 4 if tiny else 64, True)
        elif part == 'sample':
            self.sample(part, 4 if tiny else 64)
        elif part == 'gemm':
            self.gemm(part, 64 if tiny else 8192)
        elif part.startswith('inception'):  # pytorch-fid's default batch, or ours
            self.features(part, 1 if tiny else 64 if 'b64' in self.words else 50)
        else:
            sys.exit('peer_dit_cuda.py: unknown part %s' % part)


    def run_all(self, parts):
        """A part that fails does not stop the others."""
        for part in parts:
            try:
                self.run(part)
                why = None
            except Exception as e:
                chain = [e]  # after a want of memory a graph cannot be ended either, which is said last
                while chain[-1].__context__:
                    chain.append(chain[-1].__context__)
                e = next((c for c in chain if 'out of memory' in str(c)), e)
                why = ' '.join(('%s: %s' % (type(e).__name__, e)).split())
                del chain, e
                print(why, file=sys.stderr, flush=True)
            if why:  # here, where nothing holds the frames of what failed
                out = 'out of memory: ' if 'out of memory' in why else 'it failed: '
                say(who='pytorch', part=part, mode=self.mode, not_run=out + why[:220])
            gc.collect()


# ---------------------------------------------------------------- all of them
def die_with_parent():
    """A child that outlives this process would hold the GPU."""
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def one_run(args, mode, parts, limit):
    """A child process; its lines are passed on as they come, so that those before a hang are kept.
    The parts that it left, and why."""
    command = [sys.executable, os.path.abspath(__file__), '--device', args.device, '--run', mode] + parts
    child = subprocess.Popen(command + (['--tiny'] if args.tiny else []), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, start_new_session=True, preexec_fn=die_with_parent)
    seen, last = set(), ['it printed nothing']

    def pass_on():
        for line in child.stdout:
            if line.startswith('{'):
                seen.add(json.loads(line)['part'])
                sys.stdout.write(line)
                sys.stdout.flush()

    def listen():
        for line in child.stderr:
            if line.strip():
                last[0] = line.strip()[:220]
                sys.stderr.write('%s: %s\n' % (mode, last[0]))  # at once: both may go to one file
    readers = [threading.Thread(target=f, daemon=True) for f in (pass_on, listen)]
    for r in readers:
        r.start()

    def end(*_):
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    signal.signal(signal.SIGTERM, lambda *_: (end(), sys.exit(1)))
    try:
        code = child.wait(timeout=limit)
        why = 'it ended with status %d: %s' % (code, last[0])
    except subprocess.TimeoutExpired:
        why = 'not done within %d s' % limit
    end()  # also what compiles for it
    for r in readers:
        r.join(timeout=2)
    return [p for p in parts if p not in seen], why


def all_runs(args):
    end = time.monotonic() + args.budget
    for mode, parts, limit in STAGES[args.stage]:
        until = min(time.monotonic() + limit, end)
        while parts:
            left = until - time.monotonic()
            if left < 12:
                for p in parts:
                    say(who='pytorch', part=p, mode=mode, not_run='the time was used up')
                break
            parts, why = one_run(args, mode, parts, left)
            if parts:  # the one that ended the process; those behind it get another
                say(who='pytorch', part=parts[0], mode=mode, not_run=why)
                parts = parts[1:]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--device', default='cuda')
    ap.add_argument('--tiny', action='store_true', help='a model of a few thousand parameters')
    ap.add_argument('--budget', type=float, default=230, help='seconds for all')
    ap.add_argument('--stage', default='all', choices=sorted(STAGES))
    ap.add_argument('--run', nargs='+', metavar=('MODE', 'PART'), help='one process')
    args = ap.parse_args()
    if not args.run:
        return all_runs(args)
    Bench(args, args.run[0]).run_all(args.run[1:])


if __name__ == '__main__':
    main()
