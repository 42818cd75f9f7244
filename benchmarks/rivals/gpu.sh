#!/usr/bin/env bash
# Polygraphy's search and the planner's engines on this machine's GPU; OUT/rivals.jsonl is what
# `python -m benchmarks.rivals` merges.
#   gpu.sh CASES OUT CASE:DIRECTION[:MODE]...    TRT_PYTHON: tensorrt 8.6.0, polygraphy 0.49 and numpy
# CASES by `python -m benchmarks.rivals.cases`. Searches run all at once, each LIMIT seconds at most (default 440); the
# plain and the planner's engines of the cases before them.
set -uo pipefail
cases=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
shift 2
export cases out here python=${TRT_PYTHON:-python3}
mkdir -p "$out"
mapfile -t names < <(printf '%s\n' "$@" | cut -d: -f1 | sort -u)
JOBS=${JOBS:-6} "$here/../../evidence/tensorrt86/run.sh" "$cases" "$out" $(for n in "${names[@]}"; do echo "$n:fp16" "$n:plan"; done) >"$out/run.out"
grep -v '^{' "$out/run.out"
for n in "${names[@]}"; do sed 's/^{/{"planner": true, /' "$cases/$n/planner.json"; done >"$out/rivals.jsonl"
cat "$out/results.jsonl" >>"$out/rivals.jsonl"
search() { # CASE:DIRECTION[:MODE]
  IFS=: read -r case direction mode <<<"$1"
  "$python" "$here/search.py" "$cases/$case" "$direction" "${mode:-bisect}" "$out" 2>&1 | tee "$out/${1//:/.}.search" |
    grep '^RESULT ' || echo "$1 failed: $(tail -3 "$out/${1//:/.}.search")"
}
export -f search
printf '%s\n' "$@" | xargs -P 16 -I{} bash -c 'search {}' | tee "$out/searches.out" | cut -c1-400
sed -n 's/^RESULT //p' "$out/searches.out" >>"$out/rivals.jsonl"
