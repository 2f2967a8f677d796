using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>The reference data beside the repository; tests that need them skip where they are absent.</summary>
internal static class Shared
{
    public static string Folder(string name) => Repository.Shared(name);

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
