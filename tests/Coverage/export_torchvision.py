#!/usr/bin/python3
"""Exports one torchvision model in training mode, with the loss and gradients of autograd: a fixture.

    export_torchvision.py --list            the names of the models
    export_torchvision.py NAME FOLDER       writes FOLDER/NAME/{case.json, inputs.npz, ts_train.onnx, ts_train.npz}

Weights are random, as torchvision initializes them. Dropout and stochastic depth are off, so that gradients can be
compared. Needs Debian's python3-torchvision and python3-onnx; run with /usr/bin/python3.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models import detection, get_model_weights, list_models, segmentation, video

OPSET = 17
BATCH = 2

# What rounding does is found from so many runs in float32, all but the first with images that are rounded otherwise.
ROUNDINGS = 4
CLASSES = 10

# The smallest images that a model takes where 64 x 64 is not enough, or where its architecture fixes them: the first
# name that a model's name starts with.
SIZES = {"inception_v3": 299, "ssd300": 300, "maxvit_t": 224, "alexnet": 224, "vgg": 224, "": 64}
CLIPS = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}

# Those that take images of 224 x 224 come last.
LARGE_IMAGES = ("alexnet", "inception_v3", "maxvit_t", "mvit_", "s3d", "vgg")

# Not exported: a flow of two images, integer arithmetic, weights of more than 1 GB.
LEFT_OUT = ("raft_", "quantized_", "regnet_y_128gf", "vit_h_14")


class Backbone(nn.Module):
    """A detector's backbone: the mean of each feature map, one after another."""

    def __init__(self, detector):
        super().__init__()
        self.backbone = detector.backbone

    def forward(self, images):
        features = self.backbone(images)
        maps = features.values() if isinstance(features, dict) else [features]
        return torch.cat([m.mean((2, 3)) for m in maps], 1)


class Weighted(nn.Module):
    """A model with auxiliary heads: their outputs count 0.3."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        outputs = self.model(images)
        outputs = list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
        return outputs[0] + 0.3 * sum(outputs[1:])


def names():
    """Every classification, segmentation and video model, and every detector for its backbone."""
    sizes = {n: get_model_weights(n).DEFAULT.meta["num_params"] for n in list_models() if not n.startswith(LEFT_OUT)}
    return sorted(sizes, key=lambda n: (n.startswith(LARGE_IMAGES), sizes[n]))


def build(name):
    """The module, its images, and the kind of its loss."""
    modules = {n: m for m in (detection, segmentation, video) for n in list_models(module=m)}
    module = modules.get(name)
    size = next(size for start, size in SIZES.items() if name.startswith(start))
    images = torch.randn(BATCH, 3, size, size)
    if name.startswith("vit_"):
        return torchvision.models.get_model(name, num_classes=CLASSES, image_size=64), images, "cross-entropy"
    if module is detection:
        return Backbone(torchvision.models.get_model(name, weights=None, weights_backbone=None)), images, "mse"
    if module is segmentation:
        extra = {} if name.startswith("lraspp") else {"aux_loss": True}
        model = torchvision.models.get_model(name, weights_backbone=None, num_classes=CLASSES, **extra)
        return Weighted(model), images, "cross-entropy"
    if module is video:
        frames, size = CLIPS.get(name, (4, 64))
        images = torch.randn(BATCH if size == 64 else 1, 3, frames, size, size)
        return torchvision.models.get_model(name, num_classes=CLASSES), images, "cross-entropy"
    if name in ("googlenet", "inception_v3"):
        model = torchvision.models.get_model(name, num_classes=CLASSES, aux_logits=True, init_weights=False)
        return Weighted(model), images, "cross-entropy"
    return torchvision.models.get_model(name, num_classes=CLASSES), images, "cross-entropy"


def still(module):
    """Turns off what is random, and puts parameters that start at zero or one a little off."""
    for part in module.modules():
        for attribute in ("p", "dropout", "attention_dropout"):
            if isinstance(getattr(part, attribute, None), float):
                setattr(part, attribute, 0.0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() <= 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


def gradients(module, images, target, kind, dtype):
    """Loss and gradients in training mode; running statistics stay as they were."""
    module = module.to(dtype).train()
    start = {n: b.clone() for n, b in module.named_buffers()}
    output = module(images.to(dtype))
    loss = functional.cross_entropy(output, target) if kind == "cross-entropy" else functional.mse_loss(
        output, target.to(dtype))
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    with torch.no_grad():
        for n, b in module.named_buffers():
            b.copy_(start[n])
    pairs = zip(module.named_parameters(), found)
    return float(loss), {n: g.double().numpy() for (n, _), g in pairs if g is not None}


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(names()))
        return
    name, folder = sys.argv[1], Path(sys.argv[2]) / sys.argv[1]
    folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module, images, kind = build(name)
    still(module)
    module.train()
    with torch.no_grad():
        shape = module(images[:2]).shape
    shape = (len(images), *shape[1:])
    if kind == "mse":
        target = torch.randn(*shape)
    else:
        target = torch.randint(CLASSES, (shape[0], *shape[2:]))
    np.savez(folder / "inputs.npz", input=images.numpy(), labels=target.numpy())

    start = {n: b.clone() for n, b in module.named_buffers()}
    torch.onnx.export(
        module, images, str(folder / "ts_train.onnx"), opset_version=OPSET, do_constant_folding=False,
        training=torch.onnx.TrainingMode.TRAINING, input_names=["input"], output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )
    with torch.no_grad():
        for n, b in module.named_buffers():
            b.copy_(start[n])

    rounded = []
    for _ in range(ROUNDINGS):
        last_bit = torch.randint(-1, 2, images.shape) * 2.0**-23 if rounded else 0
        rounded.append(gradients(module, images * (1 + last_bit), target, kind, torch.float32)[1])
    loss, expected = gradients(module, images, target, kind, torch.float64)
    norms = {n: float(np.linalg.norm(g)) for n, g in expected.items()}
    floor = 1e-4 * max(norms.values())
    errors = [
        [float(np.linalg.norm(r[n] - g)) / max(norms[n], floor) for n, g in expected.items()] for r in rounded
    ]
    arrays = {"loss": np.float64(loss)}
    for n, g in expected.items():
        arrays[f"norm/{n}"] = np.float64(norms[n])
        arrays[f"grad/{n}"] = g.astype("f4")
    np.savez(folder / "ts_train.npz", **arrays)
    description = {
        "loss": {"kind": kind, **({"class_axis": 1} if kind == "cross-entropy" else {})},
        "target": "labels",
        "files": {
            "ts_train": {
                "dynamic": True,
                "input": list(images.shape),
                "pytorch_float32_error": {
                    "worst": max(map(max, errors)),
                    "median": max(float(np.median(e)) for e in errors),
                },
            }
        },
    }
    (folder / "case.json").write_text(json.dumps(description, indent=1))


if __name__ == "__main__":
    main()
