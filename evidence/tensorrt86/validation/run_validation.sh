#!/usr/bin/env bash
# Build and measure the validation's engines on this machine's GPU.
#   run_validation.sh CASES OUT     CASES: the folder that cases.py made, or a .tar.gz of its contents
# TRT_PYTHON: a Python 3.8 to 3.10 that has tensorrt 8.6.0, polygraphy, onnx, onnxruntime and numpy; BUDGET (seconds,
# 280), JOBS (engines at once, 6), LIMIT (seconds an engine, 90).
# OUT gets results.jsonl (written as it goes), details.tar.gz, searches.json, summary.txt and run.log; engines stay in WORK.
set -uo pipefail
cases=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
export WORK=${WORK:-$(mktemp -d)} CUDA_MODULE_LOADING=LAZY OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2
mkdir -p "$out"
if [ -f "$cases" ]; then
  unpacked=$(mktemp -d)
  tar -xzf "$cases" -C "$unpacked" && cases=$unpacked
fi
"${TRT_PYTHON:-python3}" "$here/orchestrate.py" "$cases" "$out" 2>&1 | tee "$out/run.log"
