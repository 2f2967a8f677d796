#!/usr/bin/python3
"""Measures which models train with right gradients, and writes docs/coverage.md.

    coverage.py shared FOLDER        the fixtures of ../shared/pytorch-models, or any other folder of them
    coverage.py torchvision [NAME]   torchvision's models, one after another; those measured before are left out
    coverage.py write                docs/coverage.md, from what was measured

Build first: dotnet build -c Release tests/Coverage. Measurements are lines of JSON in artifacts/coverage; delete a line
to measure its model again. torchvision needs Debian's python3-torchvision and python3-onnx, and a few hours of one core.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "artifacts" / "coverage"
PROGRAM = ROOT / "artifacts" / "bin" / "Coverage" / "release" / "coverage.dll"


def measure(*arguments):
    """What the program says of models: one record each."""
    run = subprocess.run(["dotnet", PROGRAM, *arguments], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {run.stderr.strip() or run.returncode}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def measured(kind):
    path = RESULTS / f"{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def record(kind, results, mode="a"):
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / f"{kind}.jsonl", mode) as file:
        for result in results:
            file.write(json.dumps(result) + "\n")
            print(f"{result['Model']:42} {result['Reason'][:160] or 'right'}", flush=True)


def shared(folder):
    record("shared", measure("fixtures", folder), "w")


def torchvision(only=None):
    export = HERE / "export_torchvision.py"
    done = {r["Model"] for r in measured("torchvision")}
    listed = subprocess.run([export, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in [only] if only else [n for n in listed if n not in done]:
        folder = RESULTS / "fixtures"
        shutil.rmtree(folder, ignore_errors=True)
        run = subprocess.run([export, name, folder], capture_output=True, text=True)
        if run.returncode:
            reason = "not exported: " + (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1]
            record("torchvision", [{"Model": name, "Reason": reason}])
            continue
        # One process a model: a crash of one does not end the others.
        try:
            record("torchvision", measure("fixtures", folder))
        except SystemExit as e:
            record("torchvision", [{"Model": name, "Reason": str(e)}])
        shutil.rmtree(folder, ignore_errors=True)


def main():
    match sys.argv[1:]:
        case ["shared", folder]:
            shared(folder)
        case ["torchvision", *only]:
            torchvision(*only)
        case ["write"]:
            write()
        case _:
            raise SystemExit(__doc__)


def write():
    raise SystemExit("not yet")


if __name__ == "__main__":
    main()
