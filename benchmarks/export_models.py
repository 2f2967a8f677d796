#!/usr/bin/env python3
"""Writes the benchmark models, with random weights, into a folder: export_models.py FOLDER

mlp-784-512-512-10.onnx, lenet.onnx, resnet20.onnx, resnet18.onnx, mobilenet.onnx, encoder.onnx, lstm.onnx, gpt.onnx and
resnet50.onnx, in training mode with a dynamic batch axis. TorchBaseline/ builds the same architectures in TorchSharp
(all but ResNet-50).

Needs Debian 12's python3-torch, python3-torchvision and python3-onnx; run with /usr/bin/python3. Every run writes the
same bytes.
"""

import math
import sys
from pathlib import Path

import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
from attention_models import Gpt  # noqa: E402
from torch_export import export, export_language_model  # noqa: E402

SEED = 0


def mlp():
    """784 -> 512 -> 512 -> 10."""
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(),
        nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, 10),
    )


def lenet():
    """LeNet-5 for 28x28 images, with ReLU and max pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )


def conv_bn(channels_in, channels_out, kernel, stride):
    """A convolution without bias that keeps the size (divided by the stride), and batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the size changes."""

    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.first = conv_bn(channels_in, channels_out, 3, stride)
        self.second = conv_bn(channels_out, channels_out, 3, 1)
        self.shortcut = conv_bn(channels_in, channels_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def resnet20():
    """ResNet-20 for 32x32 images: three stages of three blocks with 16, 32 and 64 channels."""
    layers = [conv_bn(3, 16, 3, 1), nn.ReLU()]
    channels_in = 16
    for channels in (16, 32, 64):
        for _ in range(3):
            layers.append(ResidualBlock(channels_in, channels, 1 if channels == channels_in else 2))
            channels_in = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def resnet18():
    """torchvision's ResNet-18 with 10 classes."""
    return torchvision.models.resnet18(num_classes=10)


def mobilenet():
    """torchvision's MobileNetV2 with 10 classes, without dropout."""
    model = torchvision.models.mobilenet_v2(num_classes=10)
    model.classifier = model.classifier[1]
    return model


def gpt():
    """The shipped character model: 3 blocks of width 96 over bytes."""
    return Gpt(vocabulary=256, context=128, width=96, layers=3, heads=4, hidden=288)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer: x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, tokens, width, heads, hidden):
        super().__init__()
        self.token_shape, self.head_shape = (-1, tokens, width), (-1, tokens, heads, width // heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feedforward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        q, k, v = (
            part.reshape(self.head_shape).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(self.token_shape[-1], dim=-1)
        )
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(self.head_shape[-1]), dim=-1)
        x = x + self.projection((weights @ v).transpose(1, 2).reshape(self.token_shape))
        return x + self.feedforward(self.norm2(x))


class Encoder(nn.Module):
    """Four encoder layers over 64 tokens of width 128, the mean over the tokens, and a classifier."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(EncoderLayer(tokens=64, width=128, heads=4, hidden=512) for _ in range(4)))
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.layers(x).mean(dim=1))


class Lstm(nn.Module):
    """Two LSTM layers of 256 units over 64 steps of width 256, and a classifier of the last state."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(256, 256, num_layers=2, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, build, sample_shape, classes in [
        ("mlp-784-512-512-10.onnx", mlp, [784], 10),
        ("lenet.onnx", lenet, [1, 28, 28], 10),
        ("resnet20.onnx", resnet20, [3, 32, 32], 10),
        ("resnet18.onnx", resnet18, [3, 64, 64], 10),
        ("mobilenet.onnx", mobilenet, [3, 64, 64], 10),
        ("encoder.onnx", Encoder, [64, 128], 10),
        ("lstm.onnx", Lstm, [64, 256], 10),
        ("resnet50.onnx", torchvision.models.resnet50, [3, 224, 224], 1000),
    ]:
        torch.manual_seed(SEED)
        export(build(), sample_shape, classes, folder / name)
    torch.manual_seed(SEED)
    export_language_model(gpt(), 64, 256, folder / "gpt.onnx")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
