using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>Tensors to and from ONNX Runtime's values.</summary>
internal static class OrtValues
{
    /// <summary>Copies a tensor into a value of native memory, which the caller disposes.</summary>
    public static OrtValue Of(Tensor tensor)
    {
        var value = OrtValue.CreateAllocatedTensorValue(
            OrtAllocator.DefaultInstance,
            (TensorElementType)(int)tensor.Type,
            [.. tensor.Dims]
        );
        tensor.CopyTo(value.GetTensorMutableRawData());
        return value;
    }

    /// <summary>Copies a value's elements.</summary>
    public static Tensor ToTensor(OrtValue value)
    {
        var info = value.GetTensorTypeAndShape();
        return new((ElementType)(int)info.ElementDataType, [.. info.Shape], value.GetTensorMutableRawData().ToArray());
    }
}
