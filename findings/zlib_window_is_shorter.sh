#!/usr/bin/env bash
# Guess: deflate looks back 32,768 bytes (RFC 1951), so zlib finds a text again that stood up to so far before, or in
#   a preset dictionary (zdict) of that length; with wbits=14 it is 16,384.
# Reality: zlib looks back 262 bytes less than its window (its own MIN_LOOKAHEAD): from a distance of 32,507 on, or
#   16,123, nothing is found. A text that is compressed with the one before as its dictionary costs two bytes a
#   hundred where that is a byte short enough, and its full length where it is one byte longer.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" - <<'PY'
import random
import sys
import zlib


def packed(length, bits):
    """Bytes of a text of that length that equals its dictionary; random, so that nothing else is found."""
    text = random.Random(1).randbytes(length)
    packer = zlib.compressobj(9, zlib.DEFLATED, bits, zdict=text)
    return len(packer.compress(text) + packer.flush())


print(f"Python {sys.version.split()[0]}, zlib {zlib.ZLIB_RUNTIME_VERSION}")
as_described = []
for bits in (15, 14):
    near = (1 << bits) - 262
    short, long = packed(near, bits), packed(near + 1, bits)
    print(f"window {1 << bits}: {near} bytes take {short}, {near + 1} bytes take {long}")
    as_described.append(short < near / 50 and long > near)
sys.exit(0 if all(as_described) else 1)
PY
