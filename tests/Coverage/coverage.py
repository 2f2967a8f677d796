#!/usr/bin/python3
"""Measures which models train with right gradients, and writes docs/coverage.md.

    coverage.py shared FOLDER        the fixtures of ../shared/pytorch-models, or any other folder of them
    coverage.py torchvision [NAME]   torchvision's models, one after another; those measured before are left out
    coverage.py published            the models of published.json, out of packages of npm and NuGet
    coverage.py write                docs/coverage.md, from what was measured

Build first: dotnet build -c Release tests/Coverage. Measurements are lines of JSON in artifacts/coverage; delete a line
to measure its model again. torchvision needs Debian's python3-torchvision and python3-onnx, and hours of one core.
"""

import json
import shutil
import subprocess
import sys
import textwrap
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


def published():
    """Fetches the packages by their registries' own clients, and measures their models."""
    store = RESULTS / "packages"
    store.mkdir(parents=True, exist_ok=True)
    results = []
    for package in json.loads((HERE / "published.json").read_text()):
        folder = fetch(store, package)
        for model in package["models"]:
            if "library" in model:
                measure("extract", folder / model["library"], folder)
                files = sorted(folder.glob("*.onnx"))
            else:
                files = [folder / model["file"]]
            for file in files:
                result = measure("published", file, json.dumps(model.get("options", {})))[0]
                result |= {k: package[k] for k in ("registry", "package", "version", "licence")}
                results.append(result | {"What": model["what"]})
    record("published", results, "w")


def fetch(store, package):
    """The folder of an unpacked package."""
    name, version = package["package"], package["version"]
    folder = store / f"{name.replace('/', '-').lstrip('@')}-{version}"
    if folder.exists():
        return folder
    if package["registry"] == "npm":
        run = ["npm", "pack", "--silent", "--pack-destination", store, f"{name}@{version}"]
        file = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()[-1]
        folder.mkdir()
        subprocess.run(["tar", "-xzf", store / file, "-C", folder], check=True)
        return folder
    project = store / "packages.proj"
    project.write_text(
        '<Project Sdk="Microsoft.NET.Sdk"><PropertyGroup><TargetFramework>net10.0</TargetFramework>'
        "<ManagePackageVersionsCentrally>false</ManagePackageVersionsCentrally></PropertyGroup><ItemGroup>"
        f'<PackageDownload Include="{name}" Version="[{version}]" /></ItemGroup></Project>'
    )
    subprocess.run(["dotnet", "restore", project, "--packages", store / "nuget"], check=True, capture_output=True)
    (store / "nuget" / name.lower() / version).rename(folder)
    return folder


def main():
    match sys.argv[1:]:
        case ["shared", folder]:
            shared(folder)
        case ["torchvision", *only]:
            torchvision(*only)
        case ["published"]:
            published()
        case ["write"]:
            write()
        case _:
            raise SystemExit(__doc__)


def write():
    """The page: what was measured, one table a source."""
    fixtures, vision, packages = measured("shared"), measured("torchvision"), measured("published")
    listed = subprocess.run([HERE / "export_torchvision.py", "--list"], capture_output=True, text=True).stdout.split()
    catalogue = json.loads((HERE / "published.json").read_text())
    exported = [r for r in vision if not r["Reason"].startswith("not exported")]
    lines = [
        "# Coverage",
        "",
        "Which models train with right gradients. `tests/Coverage/coverage.py` measures and writes this page.",
        "",
        "| models | files | right |",
        "|---|---|---|",
        f"| [PyTorch, both exporters](#pytorch) | {len(fixtures)} | {right(fixtures)} |",
        f"| [torchvision, training mode](#torchvision) | {len(exported)} | {right(exported)} |",
        f"| [published, of other origins](#published) | {len(packages)} | {right(packages)} |",
        "",
        "The error of a parameter is the l2 norm of the difference between its gradient and autograd's in float64, over",
        "the gradient's norm (at least 1e-4 of the model's largest). A model is right where no parameter's error is above",
        "1e-3 and the median is not above 1e-4, or neither above ten times what PyTorch itself has in float32 (for",
        "torchvision's at worst over up to four roundings of the images): networks whose batch normalizations see few",
        "numbers amplify rounding.",
        "",
        "## PyTorch",
        "",
        "Small models of 44 families, exported by torch.onnx's TorchScript and dynamo exporters, in training and in",
        "evaluation mode.",
        "",
        *autograd_table(fixtures, lambda r: f"{r['Model']}/{r['File']}"),
        "",
        "## torchvision",
        "",
        "Every model of classification, segmentation and video, and the backbones of the detectors, in training mode at",
        "small images, with random weights, dropout off. Those that torch's exporter refuses are at the end.",
        f"Measured: {len(vision)} of {len(listed)}, the smallest first.",
        "",
        *autograd_table(exported, lambda r: r["Model"]),
        "",
        *[wrapped(f"- {r['Model']}: {clean(r['Reason'])}") for r in vision if r not in exported],
        "",
        "## Published",
        "",
        "Models out of packages of npm and NuGet. `check` compares every parameter's gradient with differences of the",
        "loss; then the model trains for an epoch of eight random batches; the exported model is compared with the",
        "original before training, relative to the largest output.",
        f"Measured: {len(packages)} of {sum(len(p['models']) for p in catalogue)}.",
        "",
        "| model | what | package | licence | opset | nodes | parameters | check | loss | export | result |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *[
            f"| {r['Model']} | {r['What']} | {r['registry']} {r['package']} {r['version']} | {r['licence']} "
            f"| {r['Opset']} | {r['Nodes']} | {r['Parameters']} | {r['Parameters'] - r['Wrong']} right "
            f"| {number(r['FirstLoss'])} -> {number(r['LastLoss'])} | {number(r['ExportError'])} | {result(r)} |"
            for r in packages
        ],
        "",
    ]
    (ROOT / "docs" / "coverage.md").write_text("\n".join(lines))


def autograd_table(results, name):
    yield "| model | nodes | parameters | worst error | median | allowed | result |"
    yield "|---|---|---|---|---|---|---|"
    for r in results:
        yield (
            f"| {name(r)} | {r.get('Nodes', 0)} | {r.get('Parameters', 0)} | {number(r.get('Worst'))} "
            f"| {number(r.get('Median'))} | {number(r.get('Allowed'))} | {result(r)} |"
        )


def right(results):
    return sum(not r["Reason"] for r in results)


def result(r):
    return clean(r["Reason"]) or "right"


def clean(reason):
    """A reason in one cell, without the file that it starts with."""
    text = " ".join(reason.replace("|", "/").split())
    return (text.split(": ", 1)[1] if text.startswith("/") and ": " in text else text)[:200]


def wrapped(item):
    return textwrap.fill(item, 120, subsequent_indent="  ")


def number(value):
    return "-" if value is None else f"{value:.2g}"


if __name__ == "__main__":
    main()
