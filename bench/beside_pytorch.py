#!/usr/bin/env python3
"""beside_pytorch.py - our training and sampling steps beside PyTorch's best, in one run.

  beside_pytorch.py BUILD                         tiny, S/2 and B/4, f32 and bf16 (`make bench`)
  beside_pytorch.py BUILD --models tiny --dtypes bf16 --work train --rounds 3 --json FILE

The peer of a row is the fastest of its modes: each PyTorch that is here, as it comes (eager), compiled
(torch.compile), compiled with max-autotune, each with the adapters computed beside the layers and
folded into them every step as we do (peer_fold.py).  In sampling PyTorch has no adapter at all; there
compiled modes also freeze their weights (Inductor packs them once).  Every mode is a process that
waits between its turns.  A first turn of all names the three fastest; these and ours then take turns
for --rounds rounds.  The ratio of a row is the median over rounds of (peer's step / our step).

PyTorch 1.13 is Debian's python3-torch with the OpenBLAS that knows AVX-512 (libopenblas0-openmp; the
usual one is 2.5 times slower in f32); the newest is that of `make parity` or PYTHONS=a:b.  A PyTorch
that is missing, and a mode that fails or compiles for longer than --patience, is said.
"""
import argparse, json, os, queue, statistics, subprocess, sys, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
OPENBLAS = '/usr/lib/x86_64-linux-gnu/openblas-openmp'
FINALISTS = 3


def core():
    """The OpenBLAS kernel set for this processor; Debian's build does not choose the newest itself."""
    flags = open('/proc/cpuinfo').read()
    return 'Cooperlake' if 'avx512_bf16' in flags else 'SkylakeX' if 'avx512f' in flags else 'Haswell'


def pythons():
    """[(python, version of torch)], and what is missing."""
    found, seen = [], set()
    wanted = os.environ.get('PYTHONS', '/usr/bin/python3:' + os.environ.get('PARITY_PYTHON', 'build/parity-venv/bin/python'))
    for p in wanted.split(':'):
        ask = [p, '-c', 'import torch; print(torch.__version__)']
        try:
            version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            print('SKIPPED PyTorch of %s: no torch there (Debian: python3-torch libopenblas0-openmp; newest: make parity)' % p)
            continue
        if version.startswith('1.') and not os.path.exists(OPENBLAS + '/libopenblas.so.0'):
            sys.exit('error: PyTorch %s would run without its best BLAS: apt-get install libopenblas0-openmp' % version)
        if version not in seen:
            found.append((p, version))
            seen.add(version)
    return found


def modes(version, work):
    """[(words, options of peer_dit.py, environment)]"""
    out = []
    for words in ('eager', 'compile', 'max-autotune'):
        if words != 'eager' and version.startswith('1.'):
            continue
        options = [] if words == 'eager' else ['--compile', 'default' if words == 'compile' else words]
        if work == 'sample':
            out.append((words, options, {}))
            if options:
                out.append((words + ', frozen', options, {'TORCHINDUCTOR_FREEZING': '1'}))
        else:
            out.append((words, options, {}))
            out.append((words + ', folded', options + ['--fold'], {}))
    return out


class Peer:
    def __init__(self, python, version, words, options, extra, row, threads):
        self.name = '%s %s' % (version.split('+')[0], words)
        self.answers, self.memory, self.why = queue.Queue(), 0, ''
        env = dict(os.environ, OPENBLAS_CORETYPE=core(), OMP_NUM_THREADS=str(threads), **extra)
        if version.startswith('1.'):
            env.update(LD_LIBRARY_PATH=OPENBLAS, ATEN_CPU_CAPABILITY='avx512')
        self.process = subprocess.Popen(
            [python, os.path.join(HERE, 'peer_dit.py'), '--serve', '--threads', str(threads), '--model', row['model'], '--batch', str(row['batch']),
             '--mode', row['work'], '--dtype', row['dtype'], '--adapter', 'affiner' if row['work'] == 'train' else 'none'] + options,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        self.errors = []
        threading.Thread(target=self.listen, daemon=True).start()
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            if line.startswith('{'):
                self.answers.put(json.loads(line))
        self.answers.put(None)

    def hear(self, patience):
        """An answer, or None: it failed (why)."""
        try:
            a = self.answers.get(timeout=patience)
        except queue.Empty:
            a, self.why = None, 'no answer in %d s' % patience
        if a is None:
            self.why = self.why or (self.errors or ['ended'])[-1].strip()[:160]
            self.end()
        else:
            self.memory = a['rss_MB']
        return a

    def turn(self, steps, patience):
        self.process.stdin.write('%d\n' % steps)
        self.process.stdin.flush()
        a = self.hear(patience)
        return statistics.median(a['ms']) if a else None

    def end(self):
        self.process.kill()
        self.process.wait()


def ours(build, row, threads):
    dtype = 'f32' if row['dtype'] == 'fp32' else 'bf16'
    out = subprocess.run([build + '/bench/bench_step', row['model'], row['work'], dtype, str(row['batch']), str(threads)],
                         capture_output=True, text=True, check=True).stdout
    return json.loads(out)


def candidates(found, row, a):
    """Peers that are warm, fastest first, with the milliseconds of their first turn."""
    first = []
    for python, version in found:
        for words, options, extra in modes(version, row['work']):
            p = Peer(python, version, words, options, extra, row, a.threads)
            ms = p.turn(a.steps, a.patience) if p.hear(a.patience) else None
            if ms is None:
                print('    %-34s SKIPPED: %s' % (p.name, p.why), flush=True)
                continue
            print('    %-34s %8.1f images/s  %5d MB' % (p.name, row['batch'] / ms * 1e3, p.memory), flush=True)
            first.append((ms, p))
            first.sort(key=lambda f: f[0])
            for _, slow in first[FINALISTS:]:
                slow.end()
            del first[FINALISTS:]
    return [p for _, p in first]


def measure(build, found, row, a):
    peers = candidates(found, row, a)
    mine, theirs, memory = [], {p.name: [] for p in peers}, 0
    for _ in range(a.rounds):
        r = ours(build, row, a.threads)
        mine.append(r['ms'])
        memory = max(memory, r['rss_MB'])
        for p in peers:
            theirs[p.name].append(p.turn(a.steps, a.patience))
    row.update(ours=row['batch'] / statistics.median(mine) * 1e3, ours_MB=memory, gflop_s=r['gflop'] / statistics.median(mine) * 1e3)
    whole = [p for p in peers if None not in theirs[p.name]]
    if whole:
        best = min(whole, key=lambda p: statistics.median(theirs[p.name]))
        ratios = sorted(t / m for t, m in zip(theirs[best.name], mine))
        row.update(peer=row['batch'] / statistics.median(theirs[best.name]) * 1e3, peer_MB=best.memory, mode=best.name,
                   ratio=statistics.median(ratios), least=ratios[0], most=ratios[-1])
    for p in peers:
        p.end()
    return row


def show(r):
    known = 'ratio' in r
    print('%-5s %-6s %-5s %5d %10.1f %10s %7s %12s %8.0f %8d %8s  %s'
          % (r['model'], r['work'], r['dtype'], r['batch'], r['ours'], '%.1f' % r['peer'] if known else '-', '%.2f' % r['ratio'] if known else '-',
             '%.2f-%.2f' % (r['least'], r['most']) if known else '-', r['gflop_s'], r['ours_MB'], r['peer_MB'] if known else '-', r.get('mode', 'no peer')),
          flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('build')
    ap.add_argument('--models', default='tiny,S/2,B/4')
    ap.add_argument('--work', default='train,sample')
    ap.add_argument('--dtypes', default='fp32,bf16')
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--steps', type=int, default=5, help='of a peer in a turn (median counts)')
    ap.add_argument('--threads', type=int, default=int(os.environ.get('THREADS', os.cpu_count())))
    ap.add_argument('--patience', type=int, default=900, help='seconds that a mode may compile')
    ap.add_argument('--json', help='file for the rows')
    a = ap.parse_args()
    found, rows, start = pythons(), [], time.time()
    for model in a.models.split(','):
        for work in a.work.split(','):
            for dtype in a.dtypes.split(','):
                row = dict(model=model, work=work, dtype=dtype, batch=64 if model == 'tiny' else 8)
                print('%s %s %s: first turn of each mode' % (model, work, dtype), flush=True)
                rows.append(measure(a.build, found, row, a))
                if a.json:
                    with open(a.json, 'w') as f:
                        json.dump(rows, f, indent=1)
    print('%-5s %-6s %-5s %5s %10s %10s %7s %12s %8s %8s %8s  %s' % ('model', 'work', 'dtype', 'batch', 'ours img/s', 'peer img/s', 'ratio', 'of rounds', 'GFLOP/s', 'ours MB',
                                                         'peer MB', 'the peer\'s fastest mode'))
    for r in rows:
        show(r)
    print('%d rounds, %d threads, load %.1f, %.0f minutes' % (a.rounds, a.threads, os.getloadavg()[0], (time.time() - start) / 60))


if __name__ == '__main__':
    main()
