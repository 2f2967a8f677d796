#!/usr/bin/env python3
"""Writes the shipped data set and models beside this file: digits.csv, digits-mlp.onnx, digits-cnn.onnx, fashion-cnn.onnx.

Needs Debian 12's python3-torch, python3-onnx and python3-sklearn; run with /usr/bin/python3. Every run writes the same
bytes: weights are PyTorch's default initialisation from a fixed seed, and the data's rows are shuffled with a fixed seed.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from torch_export import export, sha256

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


def main():
    write_digits(HERE / "digits.csv")
    for name, build, sample_shape in [
        ("digits-mlp.onnx", digits_mlp, [64]),
        ("digits-cnn.onnx", digits_cnn, [1, 8, 8]),
        ("fashion-cnn.onnx", fashion_cnn, [1, 28, 28]),
    ]:
        torch.manual_seed(SEED)
        export(build(), sample_shape, 10, HERE / name)


if __name__ == "__main__":
    main()
