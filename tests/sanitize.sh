#!/usr/bin/env bash
# The operator's tests over the native step built with AddressSanitizer and
# UndefinedBehaviorSanitizer (gcc): `tests/sanitize.sh`, or with the files to test.
# A finding ends Python with a report (hence -s, so that pytest shows it). Uses $PYTHON, or .venv's.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
cc=${CC:-gcc}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
csrc=center_loss_op/_operator/csrc
"$cc" @"$csrc/compile_flags.txt" -g -O1 -fno-omit-frame-pointer -shared -fPIC \
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -DCENTER_LOSS_ONE_PROCESSOR \
    "$csrc"/*.c -o "$folder/sanitized.so"
export CENTER_LOSS_NATIVE="$folder/sanitized.so"
# Python and MXNet do not free everything at exit; tests/_operator/test_leaks.py looks for leaks.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:${ASAN_OPTIONS:-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-}
[ $# -gt 0 ] || set -- tests/_operator/test_{step,labels,operator,non_finite,bad_input,native}.py \
    tests/test_update.py
LD_PRELOAD="$("$cc" -print-file-name=libasan.so) $("$cc" -print-file-name=libubsan.so)" \
    OMP_NUM_THREADS=1 "$python" -m pytest -s -m "not soak" -p no:cacheprovider \
    -k "not [python and not [copies" "$@"   # which run no C
