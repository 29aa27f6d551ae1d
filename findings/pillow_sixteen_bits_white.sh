#!/usr/bin/env bash
# Guess: Pillow's `convert("RGB")` of a grey image of 16 bits, as of a microscope or a camera, keeps the picture with
#   fewer shades, as it does of every mode of colours and as viewers show such a file; or it raises.
# Reality: it cuts off. Each value above 255 of the 65,535 becomes white, so that hardly anything but white is left,
#   without a warning; `convert("L")` does the same, and of floats from 0 to 1 all becomes black. Scaled is
#   `image.point(lambda value: value / 256).convert("L")`.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import array
import io
import warnings

import PIL
from PIL import Image

warnings.simplefilter("error")


def shades(image):
    return sorted({image.getpixel((x, y)) for x in range(16) for y in range(16)})


ramp = array.array("H", range(0, 65536, 257)).tobytes()
file = io.BytesIO()
Image.frombytes("I;16", (16, 16), ramp).save(file, format="PNG")
deep = Image.open(file)
print("Pillow", PIL.__version__, "opens the PNG as", deep.mode, "with", len(shades(deep)), "shades")
grey, colour = deep.convert("L"), deep.convert("RGB")
print("as L:", shades(grey), "as RGB:", shades(colour))
floats = array.array("f", [n / 255 for n in range(256)]).tobytes()
black = Image.frombytes("F", (16, 16), floats).convert("L")
print("floats from 0 to 1 as L:", shades(black))
scaled = deep.point(lambda value: value / 256).convert("L")
print("scaled first:", len(shades(scaled)), "shades")
assert len(shades(deep)) == 256
assert shades(grey) == [0, 255]
assert shades(colour) == [(0, 0, 0), (255, 255, 255)]
assert shades(black) == [0, 1]
assert len(shades(scaled)) == 256
PYTHON
