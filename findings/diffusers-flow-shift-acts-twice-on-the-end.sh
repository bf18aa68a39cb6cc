#!/bin/bash
# The shift of diffusers' FlowMatchEulerDiscreteScheduler acts twice on the least noise level: a fresh scheduler has the
# levels s v / (1 + (s - 1) v) of v = 1/1000 .. 1; set_timesteps takes its ends from those shifted levels and shifts
# again.  So set_timesteps(1000) does not give back the levels of a fresh scheduler with as many, and the last level
# before 0 of a short run is that of v = s/1000, nearly, not 1/1000.  Levels that are given (sigmas=) are shifted once.
# Who samples a flow elsewhere and wants the same pictures must do the same.
#
# Installs pinned packages from PyPI in a temporary folder, and prints both lists' ends for shifts of 1 and 3.
# Exit 0: behaviour as described; 1: it has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check diffusers==0.42.1 torch==2.15.0 numpy
"$work/venv/bin/python" - <<'P' 2>/dev/null
import sys
import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler as Scheduler
print("diffusers", diffusers.__version__)
shifted = lambda s, v: s * v / (1 + (s - 1) * v)
off = {}
for s in (1.0, 3.0):
    fresh = Scheduler(shift=s)
    first = [float(x) for x in fresh.sigmas]
    fresh.set_timesteps(1000)
    again = [float(x) for x in fresh.sigmas[:1000]]
    off[s] = max(abs(a - b) for a, b in zip(first, again))
    fresh.set_timesteps(20)
    last = float(fresh.sigmas[19])
    print("shift %g: fresh ends %.6f %.6f, set_timesteps(1000) ends %.6f %.6f, largest difference %.6f; of 20 steps the last level is %.6f "
          "(once shifted 1/1000: %.6f, twice: %.6f)" % (s, first[-2], first[-1], again[-2], again[-1], off[s], last, shifted(s, 0.001),
                                                        shifted(s, shifted(s, 0.001))))
given = Scheduler(shift=3.0)
given.set_timesteps(sigmas=[(20 - i) / 20 for i in range(20)])
once = max(abs(float(g) - shifted(3.0, (20 - i) / 20)) for i, g in enumerate(given.sigmas[:20]))
told = max(abs(float(t) - 1000 * shifted(3.0, (20 - i) / 20)) for i, t in enumerate(given.timesteps))
print("given levels 1, 19/20, .. 1/20: off the once shifted ones by %.2g, the times by %.2g" % (once, told))
sys.exit(0 if once < 1e-6 and told < 1e-3 and off[1.0] < 1e-6 and off[3.0] > 1e-3 and abs(last - shifted(3.0, shifted(3.0, 0.001))) < 1e-5 else 1)
P
echo "as described: the shift acts twice on the least noise level"
