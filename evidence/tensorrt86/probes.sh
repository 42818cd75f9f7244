#!/usr/bin/env bash
# Make the probes, build and measure them on this machine's GPU, print the table.
#   probes.sh DIR OUT.json [NAME...]
# python3 has the planner's packages (PLAIN_PATH: more of them), TRT_PYTHON tensorrt 8.6.0, polygraphy and numpy; the
# PYTHONPATH and LD_LIBRARY_PATH of the environment are for the latter alone.
set -uo pipefail
dir=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
shift 2
cd "$here/../.." || exit
plain=(env -u LD_LIBRARY_PATH PYTHONPATH="$PWD${PLAIN_PATH:+:$PLAIN_PATH}" OMP_NUM_THREADS=4 python3)
"${plain[@]}" -m evidence.tensorrt86.probe_models "$dir" "$@" || exit
"${TRT_PYTHON:-python3}" "$here/probes.py" "$dir" "$out" "$@"
"${plain[@]}" -m evidence.tensorrt86.probe_table "$out"
