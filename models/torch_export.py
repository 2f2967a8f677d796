"""Exports PyTorch modules as ONNX forward models that are ready to be trained.

Needs Debian's python3-torch and python3-onnx. Imported by export_models.py here and in ../benchmarks.
"""

import hashlib
import io
import warnings

import onnx
import torch
from onnx import numpy_helper

OPSET = 17


def export(module, sample_shape, classes, path):
    """Writes `module` to `path` in training mode: `input` [batch, *sample_shape] -> `logits` [batch, classes].

    Training mode keeps BatchNormalization in training mode, and nothing is folded, so that every parameter stays a
    named initializer. The batch axis is dynamic.
    """
    start = {name: value.detach().clone() for name, value in module.state_dict().items()}
    # BatchNormalization's num_batches_tracked stays out of the graph; no one needs the warning about it.
    warnings.filterwarnings("ignore", message=".*num_batches_tracked.*")
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        torch.zeros(2, *sample_shape),
        buffer,
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )
    model = onnx.load_model_from_string(buffer.getvalue())
    # Tracing runs the module once, which advances BatchNormalization's running statistics: put the start back.
    for tensor in model.graph.initializer:
        if tensor.name in start:
            tensor.CopyFrom(numpy_helper.from_array(start[tensor.name].numpy(), tensor.name))
    check(model, module, sample_shape, classes)
    onnx.save_model(model, path)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    print(f"{sha256(path)}  {path.name}  {path.stat().st_size:,} bytes, {parameters:,} parameters")


def check(model, module, sample_shape, classes):
    """Fails unless the model is valid, its batch axis is dynamic and it holds exactly the module's values."""
    onnx.checker.check_model(model, full_check=True)
    shapes = {value.name: dims(value) for value in [*model.graph.input, *model.graph.output]}
    assert shapes == {"input": ["batch", *sample_shape], "logits": ["batch", classes]}, shapes
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, parameter in module.named_parameters():
        assert (stored[name] == parameter.detach().numpy()).all(), name
    for name, values in stored.items():
        if name.endswith(("running_mean", "running_var")):
            assert (values == name.endswith("running_var")).all(), name
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            assert any(a.name == "training_mode" and a.i == 1 for a in node.attribute), node.name


def dims(value):
    """The dimensions of a graph input or output: numbers, or names where dynamic."""
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def sha256(path):
    """The SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
