// Written by `python -m tests.labextension` from the declarations in Python.
export default {
  "%%bgresponse": [
    ["-o --out --messages -c --continue --schema --each", "name"],
    ["-m --model -i --instructions --max-output-tokens --max-tool-calls --poll --deadline --create-timeout --file --tool --max-rounds --include --metadata --cache-key --param --n --sweep --max-in-flight --yes --notify", "value"],
    ["-e --effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"]],
    ["-v --verbosity", ["low", "medium", "high"]],
    ["--summary", ["auto", "concise", "detailed"]],
    ["--mode", ["standard", "pro"]],
    ["--window", ["soonest", "2h", "8h"]],
    ["--tier", ["flex", "default", "priority"]],
    ["--no-previous --ask --stream --batch --over-budget --again --reuse --raw --dry-run --wait --quiet", ""],
  ],
};
