using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>Tensors as ONNX Runtime takes them.</summary>
internal static class Tensors
{
    public static OrtValue ToOrt(Tensor tensor)
    {
        var value = OrtValue.CreateAllocatedTensorValue(
            OrtAllocator.DefaultInstance,
            (TensorElementType)(int)tensor.Type,
            [.. tensor.Dims]
        );
        tensor.Data.Span.CopyTo(value.GetTensorMutableRawData());
        return value;
    }
}
