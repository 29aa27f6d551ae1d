#!/usr/bin/env bash
# Guess: ml_dtypes' small floats, which JAX arrays are made of, are all of one dtype.kind in NumPy:
# bfloat16 says "V", so each does, and `kind == "f"` means a float of NumPy's own.
# Reality: float8_e5m2 alone says "f", and is as little a float of NumPy as the others: no
# np.floating, and no cast to text. What tells floats by kind and itemsize takes it for one of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" - <<'PY'
import sys

import ml_dtypes
import numpy as np

print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)
names = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e5m2fnuz", "float6_e2m3fn", "float4_e2m1fn"]
kinds = {}
for name in names:
    dtype = np.dtype(getattr(ml_dtypes, name))
    try:
        text = np.array([1.5]).astype(dtype).astype(str)
    except TypeError as error:
        text = f"TypeError: {error}"
    kinds[name] = dtype.kind
    print(f"{name:16} kind {dtype.kind}, np.floating: {np.issubdtype(dtype, np.floating)}, astype(str): {text}")
sys.exit(0 if [name for name in names if kinds[name] == "f"] == ["float8_e5m2"] else 1)
PY
