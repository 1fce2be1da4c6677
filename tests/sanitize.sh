#!/usr/bin/env bash
# The operator's tests over the native step built with AddressSanitizer and
# UndefinedBehaviorSanitizer (gcc): `tests/sanitize.sh`, or with the files to test.
# A finding ends Python with a report (hence -s: pytest keeps no output to itself). Runs in the Python of $PYTHON, else of .venv.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
cc=${CC:-gcc}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$cc" -std=gnu11 -g -O1 -fno-omit-frame-pointer -ffp-contract=off -shared -fPIC -pthread \
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -DCENTER_LOSS_ONE_PROCESSOR \
    center_loss_op/_operator/csrc/*.c -o "$folder/sanitized.so"
export CENTER_LOSS_NATIVE="$folder/sanitized.so"
# Python and MXNet leave at exit what the system frees; leaks are for tests/test_leaks.py.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:${ASAN_OPTIONS:-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-}
[ $# -gt 0 ] || set -- tests/test_step.py tests/test_labels.py tests/test_operator.py \
    tests/test_non_finite.py tests/test_bad_input.py tests/test_native.py tests/test_update.py
LD_PRELOAD="$("$cc" -print-file-name=libasan.so) $("$cc" -print-file-name=libubsan.so)" \
    OMP_NUM_THREADS=1 "$python" -m pytest -s -p no:cacheprovider "$@"
