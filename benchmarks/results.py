#!/usr/bin/env python3
"""Compares the optimizers on the shipped transformers: benchmarks/results.py [vit] [gpt]   (both without names)

For each optimizer the learning rate is searched first, equally: the same number of rates, a shorter run each, all with the
first seed; the rate with the lowest training loss over the last fifth of its run wins (test data play no part). Then every
seed trains with it. A seed decides the order of the samples; all start with the same weights. Everything else is the
default of 'maconnx train', with a cosine schedule. Writes NAME.md (a table) and NAME.svg (the curves) to the output folder.

Runs are kept in artifacts/results and not repeated: stop and start as you like; delete a run's folder to measure it again.
Needs the .NET SDK and, for vit, Fashion-MNIST (Debian: dataset-fashion-mnist).
"""

import argparse
import json
import math
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "artifacts" / "results"
MACONNX = ROOT / "artifacts" / "bin" / "Cli" / "release" / "maconnx.dll"

TASKS = {
    "vit": ("ViT on Fashion-MNIST", [
        str(ROOT / "models" / "vit-fashion.onnx"), "--data", "/usr/share/datasets/fashion-mnist", "--batch-size", "64"]),
    "gpt": ("Character GPT on Genesis and Exodus", [
        str(ROOT / "models" / "chargpt.onnx"), "--data", str(ROOT / "models" / "kjv.txt"), "--context", "64", "--batch-size", "32"]),
}
METHODS = {
    "MAC": (["--optimizer", "mac", "--value-statistic", "product"], [0.01, 0.02, 0.05, 0.1, 0.2], "#1f5fa8"),
    "MAC without attention statistics": (["--optimizer", "mac", "--value-statistic", "none"], [0.01, 0.02, 0.05, 0.1, 0.2], "#6fb3e0"),
    "SGD": (["--optimizer", "sgd"], [0.01, 0.02, 0.05, 0.1, 0.2], "#d96a0b"),
    "AdamW": (["--optimizer", "adamw"], [0.0005, 0.001, 0.002, 0.005, 0.01], "#2a8a4a"),
}


def main():
    """Trains what has not been trained yet, then writes tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="vit, gpt; all without names")
    parser.add_argument("--steps", type=int, default=2000, help="steps of a run (default %(default)s)")
    parser.add_argument("--search-steps", type=int, default=400, help="steps of a run of the search (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each optimizer (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "results", help="folder of tables and plots (default docs/results)")
    options = parser.parse_args()
    for name in options.tasks:
        if name not in TASKS:
            parser.error(f"'{name}' is not one of {', '.join(TASKS)}")
    subprocess.run(["dotnet", "build", ROOT / "src" / "Cli", "-c", "Release", "-v", "q", "--nologo"], check=True, stdout=subprocess.DEVNULL)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.tasks or TASKS:
        results = {method: compare(name, method, options) for method in METHODS}
        (options.output / f"{name}.md").write_text(table(name, results, options), encoding="utf-8")
        (options.output / f"{name}.svg").write_text(plot(TASKS[name][0], results, options.steps), encoding="utf-8")
        print((options.output / f"{name}.md").read_text(encoding="utf-8"))


def compare(task, method, options):
    """Searches the rate and trains with each seed: (rate, whether it is at an end of the grid, runs)."""
    rates = METHODS[method][1]
    losses = [last_fifth(train(task, method, rate, 0, options.search_steps, options.threads)) for rate in rates]
    best = min(range(len(rates)), key=losses.__getitem__)
    runs = [train(task, method, rates[best], seed, options.steps, options.threads) for seed in range(options.seeds)]
    return rates[best], best in (0, len(rates) - 1), runs


def train(task, method, rate, seed, steps, threads):
    """Trains once, or takes what an earlier call left: the losses of the steps and the final evaluation; None if it diverged."""
    folder = RUNS / f"{task}-{method.lower().replace(' ', '-')}-{rate}-{steps}-{seed}"
    result = folder / "result.json"
    if not result.exists():
        if folder.exists():
            raise SystemExit(f"{folder} is an interrupted run: delete it and start again.")
        print(f"{task}: {method}, rate {rate}, seed {seed}, {steps} steps", flush=True)
        command = ["dotnet", MACONNX, "train", *TASKS[task][1], *METHODS[method][0], "--learning-rate", str(rate), "--schedule", "cosine",
                   "--warmup-steps", str(steps // 20), "--max-steps", str(steps), "--seed", str(seed), "--threads", str(threads), "-o", folder, "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 2) or (done.returncode == 2 and "MAC0503" not in done.stderr):
            raise SystemExit(done.stderr)
        result.write_text(done.stdout if done.returncode == 0 else "null", encoding="utf-8")
        for checkpoint in folder.glob("*.safetensors"):
            checkpoint.unlink()
    evaluation = json.loads(result.read_text(encoding="utf-8"))
    if evaluation is None:
        return None
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [math.inf if loss is None else loss for loss in losses], evaluation["validation"]


def last_fifth(run):
    """The mean loss of the last fifth of a run's steps; infinite if it diverged."""
    return math.inf if run is None else statistics.fmean(run[0][-max(1, len(run[0]) // 5):])


def table(task, results, options):
    """The results as a Markdown table."""
    lines = [
        f"**{TASKS[task][0]}**, {options.steps} steps, {options.seeds} seeds (mean ± standard deviation):", "",
        "| optimizer | learning rate | training loss, last fifth | validation loss | validation accuracy |", "|---|---|---|---|---|",
    ]
    for method, (rate, is_end, runs) in results.items():
        if None in runs:
            cells = ["diverged"] * 3
        else:
            cells = [spread([last_fifth(run) for run in runs], ".4f"), spread([run[1]["loss"] for run in runs], ".4f"),
                     spread([100 * run[1]["accuracy"] for run in runs], ".2f") + " %"]
        lines.append(f"| {method} | {rate}{' (end of the grid)' if is_end else ''} | {' | '.join(cells)} |")
    grids = "; ".join(f"{method} {', '.join(map(str, grid))}" for method, (_, grid, _) in METHODS.items())
    return "\n".join([*lines, "", f"Rates searched, {options.search_steps} steps each: {grids}.", ""])


def spread(values, form):
    """Mean and standard deviation."""
    return f"{statistics.fmean(values):{form}}" + (f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else "")


def smooth(losses):
    """An exponential mean over about a fortieth of the run, corrected for its start."""
    keep, mean, weight, result = 1 - 1 / max(1, len(losses) / 40), 0, 0, []
    for loss in losses:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + 1 - keep
        result.append(mean / weight)
    return result


def plot(title, results, steps):
    """The smoothed training losses as an SVG: the mean of the seeds, and lightly the range they span."""
    width, height, left, right, top, bottom = 860, 460, 60, 20, 70, 50
    curves = {}
    for method, (_, _, runs) in results.items():
        if None not in runs:
            columns = list(zip(*(smooth(run[0]) for run in runs)))
            points = range(0, len(columns), max(1, len(columns) // 400))
            curves[method] = [(i + 1, statistics.fmean(columns[i]), min(columns[i]), max(columns[i])) for i in points]
    values = [value for curve in curves.values() for point in curve for value in point[1:] if math.isfinite(value)]
    low, high = math.log(min(values)) - 0.02, math.log(max(values)) + 0.02

    def x(step):
        return left + (width - left - right) * step / steps

    def y(loss):
        return top + (height - top - bottom) * (high - math.log(min(max(loss, math.exp(low)), math.exp(high)))) / (high - low)

    def path(points):
        return " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)

    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="Arial, sans-serif" font-size="13" fill="#333">',
           f'<rect width="{width}" height="{height}" fill="white"/>', f'<text x="{left}" y="24" font-size="16">{title}: training loss</text>']
    for i in range(6):
        loss, step = math.exp(low + (high - low) * i / 5), steps * i / 5
        svg += [f'<path d="M{left} {y(loss):.1f}H{width - right}" stroke="#e8e8e8"/>',
                f'<text x="{left - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.2f}</text>',
                f'<text x="{x(step):.1f}" y="{height - bottom + 20}" text-anchor="middle">{step:.0f}</text>']
    svg.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">step</text>')
    place = left
    for method, curve in curves.items():
        color = METHODS[method][2]
        band = path([(s, most) for s, _, _, most in curve]) + " " + path([(s, least) for s, _, least, _ in reversed(curve)])
        svg += [f'<polygon points="{band}" fill="{color}" opacity="0.15"/>',
                f'<polyline points="{path([(s, mean) for s, mean, _, _ in curve])}" fill="none" stroke="{color}" stroke-width="2"/>',
                f'<path d="M{place} 48h24" stroke="{color}" stroke-width="3"/>', f'<text x="{place + 30}" y="52">{method}</text>']
        place += 60 + 7.5 * len(method)
    return "\n".join([*svg, "</svg>", ""])


if __name__ == "__main__":
    main()
