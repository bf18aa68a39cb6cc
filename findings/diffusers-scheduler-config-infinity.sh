#!/bin/bash
# scheduler_config.json as diffusers saves it may not be JSON: schedulers whose default for lambda_min_clipped is minus
# infinity write the word -Infinity, which RFC 8259 does not have and strict parsers refuse.  Python's own json reads it.
#
# Installs pinned packages from PyPI in a temporary folder, saves the default configuration of five schedulers, and
# prints which files a strict parser takes.  Exit 0: behaviour as described; 1: it has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check diffusers==0.42.1 torch==2.15.0 numpy
"$work/venv/bin/python" - "$work" <<'P' 2>/dev/null
import json, sys
import diffusers
names = ["DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverMultistepInverseScheduler", "SASolverScheduler"]
def strict(text):
    def no(word): raise ValueError("'%s' is no JSON" % word)
    try: json.loads(text, parse_constant=no); return "JSON"
    except ValueError as e: return str(e)
print("diffusers", diffusers.__version__)
got = {}
for n in names:
    getattr(diffusers, n)().save_pretrained(sys.argv[1] + "/" + n)
    text = open(sys.argv[1] + "/" + n + "/scheduler_config.json").read()
    got[n] = strict(text)
    line = [l.strip() for l in text.splitlines() if "Infinity" in l]
    print("%-36s %-24s %s" % (n, got[n], line[0] if line else ""))
sys.exit(0 if got[names[0]] == "JSON" and all(got[n] == "'-Infinity' is no JSON" for n in names[1:]) else 1)
P
echo "as described: four of five schedulers save a file that strict JSON parsers refuse"
