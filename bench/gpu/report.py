#!/usr/bin/env python3
"""report.py - what `make gpu-check` found, as text and JSON.

  report.py curve A B LIMIT     largest difference of the losses of two gpu_steps files; 1 if above
  report.py table WORK OUT [unfinished]
                                reads WORK/parts.jsonl, WORK/machine.txt and the lines of JSON in
                                WORK/part.*.txt; writes OUT/report.txt and OUT/report.json, whole
                                or not at all.  What has no figure is `unmeasured`.
"""
import glob, json, os, sys

GFLOP_PER_IMAGE = 489  # DiT-XL/2 at 256 px, training step with adapters


def losses(path):
    out = []
    for line in open(path, 'rb').read().split(b'parameters\n')[0].decode().splitlines():
        step, loss = line.split()[:2]
        out.append((int(step), float(loss)))
    return out


def curve(a, b, limit):
    x, y = losses(a), losses(b)
    if not x or len(x) != len(y):
        print('the two runs have %d and %d steps' % (len(x), len(y)))
        return 1
    worst = max((abs(p[1] - q[1]), p[0]) for p, q in zip(x, y))
    shown = [s for s in zip(x, y) if s[0][0] in (1, 2, 5) or s[0][0] % 10 == 0]
    print('step   %s   %s   difference' % ('first'.rjust(10), 'second'.rjust(10)))
    for p, q in shown:
        print('%4d   %10.6f   %10.6f   %.2e' % (p[0], p[1], q[1], abs(p[1] - q[1])))
    print(json.dumps({'who': 'diffscaler', 'part': 'curve', 'steps': len(x), 'difference': worst[0], 'at': worst[1]}))
    return 0 if worst[0] <= limit else 1


def lines(path):
    out = []
    for s in open(path, errors='replace') if os.path.exists(path) else []:
        at = max(s.find('{"who"'), s.find('{"part"'))  # behind a warning whose line was not ended
        try:
            out.append(json.loads(s[at:]) if at >= 0 else None)
        except ValueError:  # being written, or no line of ours
            pass
    return [s for s in out if s]


def replace(path, whole):
    with open(path + '.new', 'w') as f:
        f.write(whole)
    os.replace(path + '.new', path)


class Table:
    def __init__(self, bench):
        self.bench, self.rows = bench, []

    def ours(self, part, key='img_s'):
        return next((b[key] for b in self.bench if b['who'] == 'diffscaler' and b['part'] == part and key in b), None)

    def theirs(self, part, key='img_s', mode=None):
        seen = [b for b in self.bench if b['who'] == 'pytorch' and b['part'] == part and key in b and mode in (None, b['mode'])]
        return max(seen, key=lambda b: b.get('img_s', 0)) if seen else None

    def add(self, what, asked, seen, enough, note=''):
        text = 'unmeasured' if seen is None else '%.4g' % seen
        self.rows.append(dict(what=what, asked=asked, seen=seen, text=text, note=note,
                              enough=None if seen is None else bool(enough(seen))))

    def least_memory(self, part):
        seen = [b for b in self.bench if b['who'] == 'pytorch' and b['part'] == part and 'memory_MB' in b]
        return min(seen, key=lambda b: b['memory_MB']) if seen else None

    def missing(self, part, mode=None):
        """Ways that PyTorch did not go: the best of the others may not be its best."""
        gone = [b['mode'] for b in self.bench if b['who'] == 'pytorch' and b['part'] == part and 'not_run' in b and mode in (None, b['mode'])]
        gone = [m for m in dict.fromkeys(gone) if not self.theirs(part, mode=m)]
        return '; not run: ' + ', '.join(gone) if gone else ''

    def against(self, what, part, least, mode=None):
        a, b = self.ours(part), self.theirs(part, mode=mode)
        note = '%s images/s, PyTorch %s' % (
            'unmeasured' if a is None else '%.4g' % a, '%.4g (%s)' % (b['img_s'], b['mode']) if b else 'unmeasured')
        self.add(what, '>= %g x' % least, a / b['img_s'] if a and b else None, lambda x: x >= least, note + self.missing(part, mode))

    def fill(self):
        for n in (32, 64, 128):
            self.against('training step, batch %d' % n, 'train-%d' % n, 1.5)
        torch_gemm = self.theirs('gemm', 'tflop_s')
        rates = [x for x in (self.ours('gemm', 'tflop_s'), torch_gemm and torch_gemm['tflop_s']) if x]
        speed = self.ours('train-64')
        self.add('model FLOP utilisation, batch 64', '>= 55 %',
                 100 * speed * GFLOP_PER_IMAGE / 1e3 / max(rates) if speed and rates else None, lambda x: x >= 55,
                 'of %.4g TFLOP/s, the better of both products of 8192^3' % max(rates) if rates else '')
        a, b = self.ours('train-64', 'memory_MB'), self.theirs('train-64', 'memory_MB')
        b_mb = b and b['memory_MB']
        least = self.least_memory('train-64')
        self.add('memory at batch 64', '<= 0.6 x', a / b_mb if a and b_mb else None, lambda x: x <= 0.6,
                 '%.0f MB, PyTorch %.0f MB (%s; its thriftiest: %.0f MB, %s)' % (a, b_mb, b['mode'], least['memory_MB'], least['mode'])
                 if a and b_mb else '')
        self.against('sampling with guidance, batch 64, folded adapter', 'sample', 1.3)
        a, b = self.ours('sample'), self.ours('sample-base')
        self.add('the same against no adapter', '>= 0.98 x', a / b if a and b else None, lambda x: x >= 0.98)
        a, b = self.ours('mixed'), self.ours('one-task')
        self.add('8 tasks mixed against one task, batch 64', '>= 0.9 x', a / b if a and b else None, lambda x: x >= 0.9)
        a = self.ours('mixed-stacked')
        self.add('the same over one base, adapters unfolded', '', a / b if a and b else None, lambda x: True)
        self.against('small base, batch 64, training step, against eager', 'small', 5, 'eager')
        self.against('Inception features, TF32, as pytorch-fid runs it', 'inception', 2, 'eager')
        self.against('the same against the best PyTorch mode', 'inception', 1)
        self.against('the same from 8-bit pictures of 64 x 64', 'inception-8bit', 1, 'eager')
        self.against('Inception features in exact f32, both', 'inception-f32', 1, 'eager')
        steps = self.ours('curve', 'steps')
        self.add('loss curve of 50 steps, f32, CPU and GPU', '<= 0.001', self.ours('curve', 'difference') if steps == 50 else None,
                 lambda x: x <= 1e-3)
        return self.rows


def blocks(machine, parts, rows, bench):
    """Head, parts, table, ops and runs, each a list of lines."""
    part = ['PARTS']
    part += ['%-10s %6.1f s  %s%s' % (p['state'], p['seconds'], p['part'], '   ' + p['note'] if p.get('note') else '') for p in parts]
    seen = ['TABLE (issue: the CUDA backend)', '%-55s %-10s %-12s %s' % ('what', 'asked', 'seen', '')]
    for r in rows:
        verdict = {None: '', True: 'yes', False: 'NO'}[r['enough']]
        seen.append('%-55s %-10s %-12s %-4s %s' % (r['what'], r['asked'], r['text'], verdict, r['note']))
    ops = [b for b in bench if 'op' in b]
    if ops:
        head = ['A TRAINING STEP BY OP, each one waited for (%s)' % ops[0]['part']]
        ops = head + ['%9.3f ms %5.1f %%  %5d x  %s' % (b['ms'], 100 * b['share'], b['calls'], b['op']) for b in ops]
    run = ['RUNS']
    for b in bench:
        if 'op' in b:
            continue
        rest = {k: v for k, v in b.items() if k not in ('who', 'part', 'mode', 'device', 'torch')}
        run.append('%-11s %-14s %-24s %s' % (b['who'], b['part'], b.get('mode', ''), rest))
    return machine, part, seen, ops, run


def text(*which):
    return '\n\n'.join('\n'.join(b) for b in which if b) + '\n'


def table(work, out, unfinished):
    parts = lines(os.path.join(work, 'parts.jsonl'))
    files = sorted(glob.glob(os.path.join(work, 'part.*.txt')), key=os.path.getmtime)
    bench = [b for f in files for b in lines(f) if 'who' in b and 'part' in b]
    rows = Table(bench).fill()
    path = os.path.join(work, 'machine.txt')
    machine = open(path).read().splitlines() if os.path.exists(path) else []
    if unfinished:
        machine.append('UNFINISHED: written while parts were under way')
    head, part, seen, ops, run = blocks(machine, parts, rows, bench)
    # The table last: of what is printed the end is sure to be seen.
    print(text(head, ops, run, [p for p in part if not p.startswith('ok ')], seen), end='')
    whole = dict(machine=machine, finished=not unfinished, parts=parts, table=rows, runs=bench)
    try:
        replace(os.path.join(out, 'report.json'), json.dumps(whole, indent=1) + '\n')
        replace(os.path.join(out, 'report.txt'), text(head, part, seen, ops, run))
    except OSError as e:
        print('report.py: the report could not be written: %s' % e)
        return 1
    return 0


if __name__ == '__main__':
    if len(sys.argv) == 5 and sys.argv[1] == 'curve':
        sys.exit(curve(sys.argv[2], sys.argv[3], float(sys.argv[4])))
    if len(sys.argv) in (4, 5) and sys.argv[1] == 'table':
        sys.exit(table(sys.argv[2], sys.argv[3], len(sys.argv) == 5))
    sys.exit(__doc__)
