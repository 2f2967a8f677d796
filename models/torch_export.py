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
    """Writes `module` to `path` in training mode: `input` [batch, *sample_shape] -> `logits` [batch, classes]."""
    write(module, torch.zeros(2, *sample_shape), ("input", ["batch", *sample_shape]), ["batch", classes], path)


def export_language_model(module, context, vocabulary, path):
    """Writes `module` to `path` in training mode: `ids` [batch, sequence] -> `logits` [batch, sequence, vocabulary]."""
    example = torch.zeros(2, context, dtype=torch.long)
    write(module, example, ("ids", ["batch", "sequence"]), ["batch", "sequence", vocabulary], path)


def write(module, example, named_input, logits, path):
    """Writes `module` to `path`, traced with `example`; axes given by a name are dynamic.

    Training mode keeps BatchNormalization in training mode, and nothing is folded, so that every parameter stays a
    named initializer.
    """
    name, shape = named_input
    shapes = {name: shape, "logits": logits}
    start = {name: value.detach().clone() for name, value in module.state_dict().items()}
    # BatchNormalization's num_batches_tracked stays out of the graph; no one needs the warning about it.
    warnings.filterwarnings("ignore", message=".*num_batches_tracked.*")
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        example,
        buffer,
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=[name],
        output_names=["logits"],
        dynamic_axes={v: {i: d for i, d in enumerate(s) if isinstance(d, str)} for v, s in shapes.items()},
    )
    model = onnx.load_model_from_string(buffer.getvalue())
    # Tracing runs the module once, which advances BatchNormalization's running statistics: put the start back.
    for tensor in model.graph.initializer:
        if tensor.name in start:
            tensor.CopyFrom(numpy_helper.from_array(start[tensor.name].numpy(), tensor.name))
    check(model, module, shapes)
    onnx.save_model(model, path)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    print(f"{sha256(path)}  {path.name}  {path.stat().st_size:,} bytes, {parameters:,} parameters")


def check(model, module, shapes):
    """Fails unless the model is valid, has these inputs and outputs and holds exactly the module's values."""
    onnx.checker.check_model(model, full_check=True)
    found = {value.name: dims(value) for value in [*model.graph.input, *model.graph.output]}
    assert found == shapes, found
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
