#!/usr/bin/env bash
# Guess: to_csv and to_json of a float16 column say the same number, 65504 where 65504 was put in;
# whole numbers up to 2048 and many beyond are exact in this type.
# Reality: to_csv writes the fewest digits that tell the float16, 6.55e+04, which everything but
# float16 reads as 65500; to_json, tolist() and f-strings say 65504.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pandas==3.1.1
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import numpy as np
import pandas as pd

print("numpy", np.__version__, "pandas", pd.__version__)
table = pd.DataFrame({"n": np.array([65504, 4100], "float16")})
csv = table.to_csv(index=False)
read = pd.read_csv(io.StringIO(csv))["n"].tolist()
print("to_csv  ", csv.split(), "read back as", read)
print("to_json ", table["n"].to_json())
print("tolist  ", table["n"].tolist())
sys.exit(0 if read[0] == 65500 and table["n"].tolist()[0] == 65504 else 1)
PY
