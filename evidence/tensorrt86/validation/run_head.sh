#!/usr/bin/env bash
# The diagnosis of SegFormer's head, of an archive by parts.py: run_head.sh CASES.tar.gz OUT
# TRT_PYTHON and the variables as for run_validation.sh; no engine is timed.
export RESERVE=${RESERVE:-3} LIMIT=${LIMIT:-40} BUDGET=${BUDGET:-72} JOBS=${JOBS:-10}
exec "$(dirname "$0")/run_validation.sh" "$@"
