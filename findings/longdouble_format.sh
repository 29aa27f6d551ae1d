#!/usr/bin/env bash
# Guess: f"{x}" of a NumPy long double says what str(x) says, as for every float.
# Reality: format() goes through Python's float first, so an f-string says 16 digits of the 19 or
# more that str() has; the text reads back as another number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np

if np.finfo(np.longdouble).precision <= 15:
    sys.exit("no long doubles on this machine: nothing to see")
x = np.longdouble(1) / 3
print("numpy", np.__version__)
print("str(x)  ", str(x), np.longdouble(str(x)) == x)
print('f"{x}"  ', f"{x}", np.longdouble(f"{x}") == x)
sys.exit(0 if np.longdouble(str(x)) == x and np.longdouble(f"{x}") != x else 1)
PY
