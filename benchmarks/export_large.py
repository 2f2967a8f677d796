#!/usr/bin/env python3
"""Writes large models with random weights into a folder: export_large.py FOLDER [WIDTH]

encoder-base.onnx has the size of BERT-base: 12 layers of PyTorch's TransformerEncoder, 768 wide, tokens in and two
classes out, 109 million parameters in one file. products-WIDTH.onnx (default 12000, which makes 2.3 GB) is four square
matrix products whose weights are in a data file beside it, with a batch of 4. depth-2000.onnx has 2,000 nodes.

Needs Debian 12's python3-torch and python3-onnx; run with /usr/bin/python3. Every run writes the same bytes.
"""

import sys
from pathlib import Path

import numpy
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
from torch_export import write  # noqa: E402

SEED = 0


class EncoderBase(nn.Module):
    """Token and position embeddings, 12 encoder layers, the mean over the tokens, and a classifier."""

    VOCABULARY, TOKENS, WIDTH = 30522, 128, 768

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(self.VOCABULARY, self.WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(self.TOKENS, self.WIDTH))
        layer = nn.TransformerEncoderLayer(self.WIDTH, 12, 4 * self.WIDTH, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 12)
        self.head = nn.Linear(self.WIDTH, 2)

    def forward(self, ids):
        return self.head(self.layers(self.tokens(ids) + self.positions).mean(dim=1))


def export_encoder(path):
    """Writes the encoder in training mode, with a fixed number of tokens."""
    torch.manual_seed(SEED)
    tokens = torch.zeros(2, EncoderBase.TOKENS, dtype=torch.long)
    write(EncoderBase(), tokens, ("ids", ["batch", EncoderBase.TOKENS]), ["batch", 2], path)


def products(width, path):
    """Writes y = relu(relu(relu(x W1) W2) W3) W4, the weights one after the other in a data file."""
    data = path.with_suffix(".bin")
    random = numpy.random.default_rng(SEED)
    nodes, weights = [], []
    with data.open("wb") as file:
        for i in range(1, 5):
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in [("location", data.name), ("offset", file.tell()), ("length", 4 * width * width)]:
                tensor.external_data.add(key=key, value=str(value))
            for _ in range(width):
                file.write((random.standard_normal(width, numpy.float32) / width**0.5).tobytes())
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"], name=f"product{i}"))
            if i < 4:
                nodes.append(helper.make_node("Relu", [f"y{i}"], [f"x{i + 1}"], name=f"relu{i}"))
    save(nodes, weights, width, path)


def deep(nodes, path):
    """Writes a chain of dense layers of width 16 that has `nodes` nodes."""
    random = numpy.random.default_rng(SEED)
    made, weights = [], []
    for i in range(1, nodes // 2 + 1):
        weights.append(numpy_helper.from_array(random.standard_normal((16, 16), numpy.float32) / 4, f"w{i}"))
        made.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"], name=f"product{i}"))
        made.append(helper.make_node("Tanh", [f"y{i}"], [f"x{i + 1}"], name=f"tanh{i}"))
    save(made, weights, 16, path)


def save(nodes, weights, width, path):
    """Writes a graph from x1 to the last node's output, both [4, width]."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, width]) for n in ("x1", nodes[-1].output[0]))
    model = helper.make_model(
        helper.make_graph(nodes, path.stem, [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    print(f"{path.name}: {len(nodes)} nodes")


def main(folder, width):
    folder.mkdir(parents=True, exist_ok=True)
    deep(2000, folder / "depth-2000.onnx")
    export_encoder(folder / "encoder-base.onnx")
    products(width, folder / f"products-{width}.onnx")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} FOLDER [WIDTH]")
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 12000)
