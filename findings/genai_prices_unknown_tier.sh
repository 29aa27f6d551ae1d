#!/usr/bin/env bash
# genai-prices 0.2.3: the price of a service tier that the list does not have.
#
# Guess:   calc_price(..., price_context={"service_tier": "batch"}) gives the batch price, since that price
#          is in the list; and a tier that has no price, or a name that is none, is an error.
# Reality: batch prices stand under another key, {"processing": "batch"}. A tier that the model has no
#          price of, and any word at all, gives the standard price, without an error or a warning: twice
#          what flex costs where the model has it. To tell, ask for the standard price too, and compare.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check genai-prices==0.2.3
"$folder/venv/bin/python" - <<'PY'
from genai_prices import Usage, __version__, calc_price

USAGE = Usage(input_tokens=1_000_000, output_tokens=100_000)
SERVER = "https://api.openai.com/v1"


def price(model, **context):
    return calc_price(USAGE, model, provider_api_url=SERVER, price_context=context or None).total_price


print("genai-prices", __version__)
standard, pro = price("gpt-5.4"), price("gpt-5.2-pro")
print("gpt-5.4 standard", standard)
print("gpt-5.4 flex", price("gpt-5.4", service_tier="flex"))
print("gpt-5.4 service_tier=batch", price("gpt-5.4", service_tier="batch"))
print("gpt-5.4 processing=batch", price("gpt-5.4", processing="batch"))
print("gpt-5.4 service_tier=no-such-tier", price("gpt-5.4", service_tier="no-such-tier"))
print("gpt-5.2-pro standard, flex", pro, price("gpt-5.2-pro", service_tier="flex"))
assert price("gpt-5.4", service_tier="flex") == standard / 2
assert price("gpt-5.4", processing="batch") == standard / 2
assert price("gpt-5.4", service_tier="batch") == standard
assert price("gpt-5.4", service_tier="no-such-tier") == standard
assert price("gpt-5.2-pro", service_tier="flex") == pro
PY
