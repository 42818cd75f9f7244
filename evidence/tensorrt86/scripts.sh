#!/usr/bin/env bash
# Try a plan folder's other scripts on this machine's GPU: verify.py on the engine there, and build.py in Polygraphy.
#   scripts.sh PLAN [verify.py's arguments]      with TRT_PYTHON as for run.sh
set -uo pipefail
plan=$1
shift
python=${TRT_PYTHON:-python3}
export PLAN_OVERRIDES='{"build": {"tactic_sources": []}}'
echo "== verify.py $plan"
timeout 300 "$python" "$plan/verify.py" "$@" 2>&1 | grep -v '^\[W\]\|Deprecat' | tail -15
echo "== polygraphy run build.py"
# Polygraphy makes up floats for inputs and cannot know the range of token ids: it is given the golden ones
golden=$(mktemp -d)
"$python" - "$plan" "$golden" <<'END'
import glob, os, sys
import numpy as np
from polygraphy.comparator import RunResults
from polygraphy.json import save_json

plan, out = sys.argv[1:]
inputs = sorted(glob.glob(os.path.join(plan, "golden", "*.inputs.npz")))[0]
with np.load(inputs) as file:
    save_json([dict(file)], os.path.join(out, "inputs.json"))
with np.load(inputs.replace(".inputs.npz", ".outputs.npz")) as file:
    results = RunResults()
    results.add([dict(file)], runner_name="golden")
    results.save(os.path.join(out, "outputs.json"))
END
cd "$plan" && timeout 200 "$python" "$("$python" -c 'import os, polygraphy; print(os.path.join(os.path.dirname(polygraphy.__path__[0]), "bin"))')/polygraphy" \
  run build.py --model-type trt-network-script --trt --trt-config-script build.py --load-inputs "$golden/inputs.json" \
  --load-outputs "$golden/outputs.json" --atol 0.02 --rtol 0 2>&1 | grep -v '^\[W\]' | tail -25
