using System.Collections.ObjectModel;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.OnDevice;

/// <summary>Tensors to and from ONNX Runtime's values.</summary>
internal static class OrtValues
{
    public static OrtValue Of(Tensor tensor)
    {
        var value = OrtValue.CreateAllocatedTensorValue(
            OrtAllocator.DefaultInstance,
            (TensorElementType)(int)tensor.Type,
            [.. tensor.Dims]
        );
        tensor.Data.Span.CopyTo(value.GetTensorMutableRawData());
        return value;
    }

    public static Tensor ToTensor(OrtValue value)
    {
        var info = value.GetTensorTypeAndShape();
        return new((ElementType)(int)info.ElementDataType, [.. info.Shape], value.GetTensorMutableRawData().ToArray());
    }
}

/// <summary>Values that are disposed together.</summary>
internal sealed class OwnedValues(params IList<OrtValue> values)
    : ReadOnlyCollection<OrtValue>(values),
        IDisposableReadOnlyCollection<OrtValue>
{
    public void Dispose()
    {
        foreach (var value in this)
        {
            value.Dispose();
        }
    }
}
