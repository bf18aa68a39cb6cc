#!/usr/bin/env python3
"""Make tests/golden/fid_net.safetensors: what pytorch-fid, torch-fidelity and clean-fid give for
pictures and weights that are made by a formula (fid_weights.py; tests/fixtures/fid_fixture.h in C).

Every feature comes out of the tool's own reading, resizing and network code; only the download of the
weights is replaced.  Needs torch, torchvision, pytorch-fid, torch-fidelity, clean-fid, safetensors,
scipy (make parity).

    make_fid_golden.py                       the committed goldens
    make_fid_golden.py --weights FILE.pth    the random weights as a checkpoint, for trials by hand
    make_fid_golden.py --folder DIR N FIRST  N pictures as PNG, for trials by hand
    make_fid_golden.py --fid DIR DIR         FID of two folders by the three tools, and without any
                                             threshold, from singular values of pytorch-fid's features
"""
import os
import sys
import tempfile

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fid_weights  # noqa: E402

OUT = "tests/golden/fid_net.safetensors"
SIZES = [(64, 48), (299, 299), (32, 32), (401, 350)]  # width, height
SET = 24  # pictures of a set for FID
torch.set_num_threads(int(os.environ.get("THREADS", "2")))


def weights():
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as F

    class Shapes(F):
        """The module without a download."""

        def load_state_dict(self, *_, **__):
            return None

    with tempfile.NamedTemporaryFile(suffix=".pth") as f:
        torch.save({}, f.name)
        net = Shapes("shapes", ["2048"], feature_extractor_weights_path=f.name)
    return fid_weights.state_dict(net.state_dict())


class Tools:
    """The three tools with our weights: each gives features (n,2048) of a list of files."""

    def __init__(self, folder):
        self.w = weights()
        path = os.path.join(folder, "weights.pth")
        torch.save(self.w, path)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.fidelity = FeatureExtractorInceptionV3(
            "golden", ["2048", "logits_unbiased", "logits"], feature_extractor_weights_path=path)
        import pytorch_fid.inception as inception

        inception.load_state_dict_from_url = lambda *_, **__: self.w
        self.pytorch = inception.InceptionV3([3]).eval()
        self.clean = self.make_clean(folder)
        self.spatial = None
        self.fidelity.Mixed_6d.branch1x1.register_forward_hook(self.keep_spatial)

    def keep_spatial(self, _module, _inputs, output):
        self.spatial = output[:, :7].permute(0, 2, 3, 1).reshape(len(output), -1).clone()

    def make_clean(self, folder):
        """clean-fid reads a torchscript file: make one of the same network."""
        import copy

        from cleanfid.inception_torchscript import InceptionV3W

        class Layers(torch.nn.Module):
            def __init__(self, net):
                super().__init__()
                net = copy.deepcopy(net)
                net._forward_hooks.clear()
                skip = ("fc",)
                names = [n for n, _ in net.named_children() if n not in skip]
                self.seq = torch.nn.Sequential(*[getattr(net, n) for n in names])

            def forward(self, x):
                return self.seq(x)

        class Base(torch.nn.Module):
            def __init__(self, net):
                super().__init__()
                self.layers = torch.jit.trace(Layers(net).eval(), torch.zeros(1, 3, 299, 299))

            def forward(self, x):
                return self.layers(x)

        torch.jit.script(Base(self.fidelity)).save(os.path.join(folder, "inception-2015-12-05.pt"))
        return InceptionV3W(folder, download=False, resize_inside=False)

    def by_pytorch(self, files):
        from pytorch_fid.fid_score import get_activations

        return get_activations(files, self.pytorch, min(50, len(files)), 2048, "cpu", 0)

    def by_clean(self, files):
        from cleanfid.fid import get_files_features

        return get_files_features(files, self.clean, num_workers=0, batch_size=32,
                                  device="cpu", mode="clean", verbose=False)

    def by_fidelity(self, files, batch=32):
        from torch_fidelity.datasets import ImagesPathDataset

        data = ImagesPathDataset(files)
        out, spatial = [], []
        with torch.no_grad():
            for at in range(0, len(files), batch):
                items = [data[i] for i in range(at, min(at + batch, len(files)))]
                same = len({i.shape for i in items}) == 1
                for group in [items] if same else [[i] for i in items]:
                    out.append([t.numpy() for t in self.fidelity(torch.stack(group))])
                    spatial.append(self.spatial.numpy())
        parts = [np.concatenate([o[k] for o in out]) for k in range(3)]
        return parts + [np.concatenate(spatial)]


def save_pictures(folder, first, count, size=None):
    files = []
    os.makedirs(folder, exist_ok=True)
    for i in range(count):
        w, h = size(i) if size else SIZES[i % len(SIZES)]
        files.append(os.path.join(folder, "%06d.png" % (first + i)))
        Image.fromarray(fid_weights.picture(first + i, w, h)).save(files[-1])
    return files


def fids(tools, a, b):
    """FID of two lists of files, each tool's own; told as they come, for large folders."""
    from cleanfid.fid import fid_from_feats
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    def pytorch():
        x, y = tools.by_pytorch(a), tools.by_pytorch(b)
        return calculate_frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0),
                                          np.cov(y, rowvar=False))

    def fidelity():
        x, y = (fid_features_to_statistics(torch.from_numpy(tools.by_fidelity(s)[0]))
                for s in (a, b))
        return fid_statistics_to_metric(x, y, False)["frechet_inception_distance"]

    def clean():
        return fid_from_feats(tools.by_clean(a), tools.by_clean(b))

    out = {}
    for name, tool in (("pytorch-fid", pytorch), ("torch-fidelity", fidelity), ("clean", clean)):
        out[name] = float(tool())
        print(name, out[name], flush=True)
    return out


def from_singular_values(x, y):
    """Tr sqrt(S1 S2) is the sum of the singular values of X Y^T / sqrt((n - 1)(m - 1)), X and Y centred."""
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    x, y = x - x.mean(0), y - y.mean(0)
    root = np.linalg.norm(x @ y.T, "nuc") / np.sqrt((len(x) - 1) * (len(y) - 1))
    return mean + (x ** 2).sum() / (len(x) - 1) + (y ** 2).sum() / (len(y) - 1) - 2 * root


def others(tools, a, b):
    """IS, KID, precision and recall of torch-fidelity on its own features."""
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    fa, la = (torch.from_numpy(v) for v in tools.by_fidelity(a)[:2])
    fb = torch.from_numpy(tools.by_fidelity(b)[0])
    isc = isc_features_to_metric(la, splits=1, shuffle=False)["inception_score_mean"]
    kid = kid_features_to_metric(fa.double(), fb.double(), kid_subsets=1, kid_subset_size=len(a),
                                 verbose=False)["kernel_inception_distance_mean"]
    prc = prc_features_to_metric(fa, fb, prc_neighborhood=3, verbose=False)
    return {"is": isc, "kid": kid, "precision": prc["precision"], "recall": prc["recall"]}


def main():
    args = sys.argv[1:]
    if args[:1] == ["--weights"]:
        torch.save(weights(), args[1])
        return
    if args[:1] == ["--folder"]:
        save_pictures(args[1], int(args[3]), int(args[2]),
                      lambda i: (40 + i * 7 % 60, 40 + i * 11 % 50) if len(args) < 5
                      else (int(args[4]), int(args[4])))
        return
    with tempfile.TemporaryDirectory() as folder:
        tools = Tools(folder)
        if args[:1] == ["--fid"]:
            lists = [sorted(os.path.join(d, f) for f in os.listdir(d)) for d in args[1:3]]
            fids(tools, *lists)
            x, y = (np.float64(tools.by_pytorch(files)) for files in lists)
            print("singular values", from_singular_values(x, y))
            return
        files = save_pictures(os.path.join(folder, "a"), 0, len(SIZES))
        t = {}
        pool, unbiased, logits, spatial = tools.by_fidelity(files)
        t["torch-fidelity.pool"], t["torch-fidelity.logits"] = pool, unbiased
        t["torch-fidelity.logits_with_bias"] = logits[:1].copy()
        t["torch-fidelity.spatial"] = spatial
        fc = tools.w["fc.weight"].numpy()
        for name, by in (("pytorch-fid", tools.by_pytorch), ("clean", tools.by_clean)):
            x = np.concatenate([np.float32(by([f])) for f in files])
            t[name + ".pool"], t[name + ".logits"] = x, x @ fc.T
        a = save_pictures(os.path.join(folder, "s"), 1000, SET, lambda i: (40, 36))
        b = save_pictures(os.path.join(folder, "r"), 2000, SET, lambda i: (40, 36))
        numbers = fids(tools, a, b)
        numbers.update(others(tools, a, b))
        print(numbers)
        for k, v in numbers.items():
            t["value." + k] = np.array([v], dtype=np.float64)
        from safetensors.numpy import save_file

        save_file({k: np.ascontiguousarray(v) for k, v in t.items()}, OUT)
        print(OUT, os.path.getsize(OUT))


if __name__ == "__main__":
    main()
