using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>The reference data beside the repository; tests that need them skip where they are absent.</summary>
internal static class Shared
{
    public static string Root { get; } = Find();

    public static string Folder(string name)
    {
        var path = Path.Combine(Root, "..", "shared", name);
        Assert.SkipUnless(Directory.Exists(path), $"The reference data shared/{name} are not beside the repository.");
        return path;
    }

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

    private static string Find()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "MacOnnx.sln")))
        {
            folder = Path.GetDirectoryName(folder)!;
        }

        return folder;
    }
}
