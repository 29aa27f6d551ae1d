#!/usr/bin/env bash
# Guess: hatchling's `shared-data` is for wheels alone; after `pip install -e` the files are missing from the
#   environment's share/, as they are where JupyterLab's extensions are linked by `jupyter labextension develop`.
# Reality: an editable install brings them too, as copies. A file that is changed in the tree afterwards stays
#   old in the environment, and one that is added is not there, until the package is installed again, while the
#   Python modules beside it are read from the tree.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" "hatchling==1.33.0" "editables==0.5"

mkdir -p "$folder/tree/sample/page"
cd "$folder/tree"
echo 'WORD = "first"' > sample/__init__.py
echo first > sample/page/word.txt
cat > pyproject.toml <<'TOML'
[build-system]
requires = ["hatchling==1.33.0", "editables==0.5"]
build-backend = "hatchling.build"

[project]
name = "sample"
version = "1"

[tool.hatch.build.targets.wheel.shared-data]
"sample/page" = "share/sample"
TOML
"${pip[@]}" --no-build-isolation -e .

installed="$folder/venv/share/sample"
word() { "$folder/venv/bin/python" -c 'import sample; print(sample.WORD)'; }
state() { echo "$(word) $(cat "$installed/word.txt" 2>/dev/null || echo missing) $(ls "$installed" 2>/dev/null | wc -l)"; }

cd "$folder"
at_first=$(state)
echo 'WORD = "second"' > tree/sample/__init__.py
echo second > tree/sample/page/word.txt
echo new > tree/sample/page/new.txt
changed=$(PYTHONDONTWRITEBYTECODE=1 state)
"${pip[@]}" --no-build-isolation -e tree
again=$(state)

echo "hatchling 1.33.0; the module's word, the shared file's, how many files are shared"
printf '%-22s%s\n' "installed:" "$at_first" "changed in the tree:" "$changed" "installed again:" "$again"
[ "$at_first | $changed | $again" = "first first 1 | second first 1 | second second 2" ]
