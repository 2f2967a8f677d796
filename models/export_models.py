#!/usr/bin/env python3
"""Writes the shipped data and models beside this file: digits.csv, kjv.txt, digits-*.onnx, fashion-cnn.onnx, vit-fashion.onnx, chargpt.onnx.

Needs Debian 12's python3-torch, python3-onnx, python3-sklearn, bible-kjv and bible-kjv-text; run with /usr/bin/python3.
Every run writes the same bytes: weights start from a fixed seed, and the digits' rows are shuffled with a fixed seed.
"""

import re
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from attention_models import Gpt, VisionTransformer
from torch_export import export, export_language_model, sha256

HERE = Path(__file__).resolve().parent
SEED = 0


def write_digits(path):
    """Writes the UCI digits: columns p0..p63 (row major, ink from 0 to 1 in steps of 1/16) and label.

    UCI orders the samples by writer. One shuffle mixes the writers, so that any fraction of the rows is a fair sample.
    """
    digits = load_digits()
    order = np.random.RandomState(SEED).permutation(len(digits.target))
    lines = [",".join([f"p{i}" for i in range(64)] + ["label"])]
    for row in order:
        lines.append(",".join([f"{ink / 16:g}" for ink in digits.data[row]] + [str(digits.target[row])]))
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    print(f"{sha256(path)}  {path.name}  {path.stat().st_size:,} bytes, {len(order):,} samples")


def write_text(path):
    """Writes Genesis and Exodus in the King James Version: one verse a line, without numbers."""
    lines = []
    for book in ["Genesis1:1-50:26", "Exodus1:1-40:38"]:
        verses = subprocess.run(["bible", "-f", book], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
        lines += [re.sub(r"^\S+ ", "", verse) for verse in verses.splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    print(f"{sha256(path)}  {path.name}  {path.stat().st_size:,} bytes, {len(lines):,} verses")


def conv_block(index, channels_in, channels_out, pool=True):
    """Named layers: 3x3 convolution, batch normalisation, ReLU and, if `pool`, a pool that halves height and width."""
    block = [
        (f"conv{index}", nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)),
        (f"bn{index}", nn.BatchNorm2d(channels_out)),
        (f"relu{index}", nn.ReLU()),
    ]
    return block + [(f"pool{index}", nn.MaxPool2d(2))] if pool else block


def sequential(layers):
    """A module that runs the named layers in order; the names become the names of the ONNX initializers."""
    return nn.Sequential(OrderedDict(layers))


def digits_mlp():
    """64 -> 64 -> 32 -> 10."""
    return sequential([
        ("fc1", nn.Linear(64, 64)), ("relu1", nn.ReLU()),
        ("fc2", nn.Linear(64, 32)), ("relu2", nn.ReLU()),
        ("fc3", nn.Linear(32, 10)),
    ])


def digits_cnn():
    """8x8 digits: two convolution blocks (8x8 -> 4x4 -> 2x2), then a dense head."""
    return sequential([
        *conv_block(1, 1, 16),
        *conv_block(2, 16, 32),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(32 * 2 * 2, 64)), ("relu3", nn.ReLU()),
        ("fc2", nn.Linear(64, 10)),
    ])


def fashion_cnn():
    """28x28 images: three convolution blocks (28x28 -> 14x14 -> 7x7 -> 7x7), then a dense head."""
    return sequential([
        *conv_block(1, 1, 16),
        *conv_block(2, 16, 32),
        *conv_block(3, 32, 64, pool=False),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(64 * 7 * 7, 64)), ("relu4", nn.ReLU()),
        ("fc2", nn.Linear(64, 10)),
    ])


def vit_fashion():
    """28x28 images in patches of 4x4: 49 tokens and the class token, 3 blocks."""
    return VisionTransformer(side=28, patch=4, width=64, layers=3, heads=4, hidden=256, classes=10)


def chargpt():
    """A language model over bytes, for up to 128 of them: 3 blocks."""
    return Gpt(vocabulary=256, context=128, width=96, layers=3, heads=4, hidden=288)


def main():
    write_digits(HERE / "digits.csv")
    write_text(HERE / "kjv.txt")
    for name, build, sample_shape in [
        ("digits-mlp.onnx", digits_mlp, [64]),
        ("digits-cnn.onnx", digits_cnn, [1, 8, 8]),
        ("fashion-cnn.onnx", fashion_cnn, [1, 28, 28]),
        ("vit-fashion.onnx", vit_fashion, [1, 28, 28]),
    ]:
        torch.manual_seed(SEED)
        export(build(), sample_shape, 10, HERE / name)
    torch.manual_seed(SEED)
    export_language_model(chargpt(), 64, 256, HERE / "chargpt.onnx")


if __name__ == "__main__":
    main()
