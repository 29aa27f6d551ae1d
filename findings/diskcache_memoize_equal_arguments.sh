#!/usr/bin/env bash
# Guess: diskcache's memoize() is functools.lru_cache on disk: equal arguments find the result that is kept, and, as its
#   documentation says, f(3) and f(3.0) are kept apart only with typed=True.
# Reality: arguments are compared by their pickles. A pickle writes an object that comes twice once, and points to it:
#   f(text, text) and f(text, copy) with an equal copy of the text are two calls, so what costs minutes or money is paid
#   for again, by how the caller came to the string. And f(3) and f(3.0) are kept apart, typed or not.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "diskcache==5.6.3"
"$folder/venv/bin/python" - "$folder/cache" <<'PY'
import functools
import sys

import diskcache

text = "What is a monad?"
copy = "".join(list(text))
CALLS = {
    "the same call twice": [(text, "low"), (copy, "low")],
    "a text twice, then an equal copy": [(text, text), (text, copy)],
    "3 and 3.0": [("x", 3), ("x", 3.0)],
}


def made(memoize, calls):
    """How often the function is really called."""
    count = 0

    @memoize
    def ask(question, other):
        nonlocal count
        count += 1
        return count

    for arguments in calls:
        ask(*arguments)
    return count


assert all(first == second for first, second in CALLS.values())
print("diskcache", diskcache.__version__)
seen = {}
for number, (what, calls) in enumerate(CALLS.items()):
    with diskcache.Cache(f"{sys.argv[1]}{number}") as cache:
        seen[what] = made(functools.lru_cache(typed=False), calls), made(cache.memoize(typed=False), calls)
    print(f"{what}: lru_cache makes {seen[what][0]} of {len(calls)} calls, diskcache {seen[what][1]}")
sys.exit(list(seen.values()) != [(1, 1), (1, 2), (1, 2)])
PY
