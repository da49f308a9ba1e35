#!/usr/bin/env bash
# Proves and times the library on one NVIDIA GPU in at most eight minutes; see device.py. Ends with a line of counts.
set -e
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD:$PYTHONPATH" exec "${PYTHON:-python3}" .ci/device.py --out "${OUT:-.}/device.json" "$@"
