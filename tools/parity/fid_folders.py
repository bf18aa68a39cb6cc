#!/usr/bin/env python3
"""FID of two folders by each tool as it stands and by `diffscaler-worker evaluate` in that tool's mode.

    fid_folders.py WORKER [N [MODE...]]      N pictures a side (1000); MODE: pytorch-fid torch-fidelity clean

Makes 2 N pictures of 64 x 64 (fid_weights.picture) and FID's network with random weights (make_fid_golden.py), lets the
tool measure one folder against the other, then our program.  KID, Inception Score, precision and recall likewise where
the tool has them; KID over whole folders, which both do up to 1,000 pictures (clean-fid's and torch-fidelity's subset).
THREADS is for both (1).  Exit 1 where FID differs by more than 0.01, or the rest by more than its allowance below.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_fid_golden as golden  # noqa: E402

THREADS = int(os.environ.get("THREADS", "1"))
METRICS = {"pytorch-fid": "fid", "clean": "fid,kid", "torch-fidelity": "fid,kid,is,pr"}
# KID is the small difference of mean kernels, which tools sum in float32: 1e-6 of the mean kernel.  The Inception Score
# is a mean over random parts, and everybody draws others: five times what it varies by in the tool with its seed.
# Precision and recall count pictures that lie inside a radius.  The tool takes distances by a product in float32, which
# puts some on the other side; so it gets its features in float64, and its own answer is printed as well.
ALLOWED = {"fid": 0.01, "precision": 0.002, "recall": 0.002}


def kid_allowed(x, y):
    x, y = np.float64(x), np.float64(y)
    return 1e-6 * float(((x @ y.T / x.shape[1] + 1) ** 3).mean())


def by_pytorch(tools, a, b):
    from pytorch_fid.fid_score import calculate_frechet_distance

    x, y = tools.by_pytorch(a), tools.by_pytorch(b)
    return {"fid": calculate_frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0),
                                              np.cov(y, rowvar=False))}, {}


def by_clean(tools, a, b):
    from cleanfid.fid import fid_from_feats, kernel_distance

    x, y = tools.by_clean(a), tools.by_clean(b)
    return {"fid": fid_from_feats(x, y), "kid": kernel_distance(x, y, num_subsets=1)}, {"kid": kid_allowed(x, y)}


def by_fidelity(tools, a, b):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    (x, logits), y = (torch.from_numpy(v) for v in tools.by_fidelity(a)[:2]), torch.from_numpy(
        tools.by_fidelity(b)[0])
    fid = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), False)
    kid = kid_features_to_metric(x.double(), y.double(), kid_subsets=1,
                                 kid_subset_size=min(len(a), len(b)), verbose=False)
    isc = [isc_features_to_metric(logits, splits=10, rng_seed=i)["inception_score_mean"] for i in range(20)]
    prc = prc_features_to_metric(x.double(), y.double(), prc_neighborhood=3, verbose=False)
    print("%-15s as it stands, float32: %s" % ("torch-fidelity", prc_features_to_metric(
        x, y, prc_neighborhood=3, verbose=False)))
    return {"fid": fid["frechet_inception_distance"], "kid": kid["kernel_inception_distance_mean"],
            "is": np.mean(isc), "precision": prc["precision"], "recall": prc["recall"]}, {
                "is": 5 * np.std(isc), "kid": kid_allowed(x, y)}


def ours(worker, folder, mode):
    out = subprocess.run([worker, "evaluate", "a", "--against", "b", "--feature-net", "weights.pth",
                          "--mode", mode, "--metrics", METRICS[mode], "--threads", str(THREADS),
                          "--json", "--quiet"], cwd=folder, check=True, stdout=subprocess.PIPE)
    return {m["metric"]: m["value"] for m in json.loads(out.stdout)["metrics"]}


def main():
    worker, n = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    modes = sys.argv[3:] or list(METRICS)
    torch.set_num_threads(THREADS)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        tools = golden.Tools(folder)  # leaves weights.pth
        a, b = (golden.save_pictures(os.path.join(folder, d), first, n, lambda i: (64, 64))
                for d, first in (("a", 0), ("b", 100000)))
        for mode in modes:
            t0 = time.process_time()
            tool = {"pytorch-fid": by_pytorch, "clean": by_clean, "torch-fidelity": by_fidelity}[mode]
            theirs, allowances = tool(tools, a, b)
            seconds, before = time.process_time() - t0, os.times()
            mine = ours(worker, folder, mode)
            after = os.times()
            for k, v in theirs.items():
                far = abs(mine[k] - v)
                allowed = {**ALLOWED, **allowances}[k]
                bad += not far <= allowed
                print("%-15s %-9s theirs %-12.6g ours %-12.6g apart %.2g (allowed %.2g)%s" %
                      (mode, k, v, mine[k], far, allowed, "" if far <= allowed else "  TOO FAR"),
                      flush=True)
            print("%-15s %d + %d pictures, processor time %.0f s theirs, %.0f s ours" % (
                mode, n, n, seconds, after.children_user + after.children_system -
                before.children_user - before.children_system), flush=True)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
