#!/usr/bin/env bash
# Build and measure on this machine's GPU; results.jsonl and the logs go to OUT.
#   run.sh CASES OUT [CASE:KIND...]     with TRT_PYTHON: a Python that has tensorrt 8.6.0, polygraphy 0.49 and numpy
# Without CASE:KIND every case, every plan of it, and the plain engines. JOBS engines are built at once (default 1: a
# builder that shares the GPU may choose other kernels); each is measured alone.
set -uo pipefail
cases=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
shift 2
export cases out here python=${TRT_PYTHON:-python3}
mkdir -p "$out"
if [ $# -eq 0 ]; then
  for case in "$cases"/*/; do
    name=$(basename "$case")
    case $name in census*) set -- "$@" "$name:fp16"; continue ;; esac
    for kind in fp16 fp32 tf32 fp16-fused; do set -- "$@" "$name:$kind"; done
    for plan in "$case"plan*/; do set -- "$@" "$name:$(basename "$plan")"; done
  done
fi
build() { # CASE:KIND
  timeout 240 "$python" "$here/engine.py" build "$cases/${1%%:*}" "${1##*:}" "$out" >"$out/${1/:/.}.out" 2>&1 ||
    echo "$1 not built: $(tail -3 "$out/${1/:/.}.out")"
}
export -f build
printf '%s\n' "$@" | xargs -P "${JOBS:-1}" -I{} bash -c 'build {}'
for each in "$@"; do
  [ -f "$out/${each/:/.}.engine" ] || continue
  timeout 60 "$python" "$here/engine.py" run "$cases/${each%%:*}" "${each##*:}" "$out" >"$out/${each/:/.}.run" 2>&1 ||
    echo "$each not run: $(tail -3 "$out/${each/:/.}.run")"
  grep '^RESULT ' "$out/${each/:/.}.run" | cut -c8- | tee -a "$out/results.jsonl"
done
