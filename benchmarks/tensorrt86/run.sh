#!/usr/bin/env bash
# Measure every case in CASES on this machine's GPU; results and logs go to OUT.
#   run.sh CASES OUT        with TRT_PYTHON: a Python that has tensorrt 8.6.0, polygraphy 0.49 and numpy
set -uo pipefail
cases=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
python=${TRT_PYTHON:-python3}
measure() { # CASE KIND
  timeout 150 "$python" "$here/engine.py" "$cases/$1" "$2" --log "$out/$1.$2.log" >"$out/$1.$2.out" 2>&1 ||
    echo "$1 $2 failed: $(tail -3 "$out/$1.$2.out")"
  grep '^RESULT ' "$out/$1.$2.out" | cut -c8- | tee -a "$out/results.jsonl"
}
measure census fp16
for case in massive ffn minilm; do
  [ -d "$cases/$case/plan" ] || { echo "no case $case"; continue; }
  for kind in plan fp16 fp32 tf32 fp16-fused; do measure "$case" "$kind"; done
done
for case in massive ffn minilm; do
  [ -f "$cases/$case/plan/model.engine" ] || continue
  echo "== verify.py $case"; "$python" "$cases/$case/plan/verify.py" 2>&1 | tail -8
done
echo "== polygraphy"
(cd "$cases/massive/plan" && PLAN_OVERRIDES='{"build": {"tactic_sources": []}}' timeout 120 "$python" \
  "$(dirname "$("$python" -c 'import polygraphy; print(polygraphy.__path__[0])')")/bin/polygraphy" run build.py \
  --model-type trt-network-script --trt --trt-config-script build.py --load-inputs golden.json 2>&1 | tail -25)
