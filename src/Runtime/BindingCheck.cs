using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime;

/// <summary>
/// Checks that a graph has the inputs and outputs that a manifest binds, of the buffers' types and shapes.
/// </summary>
internal static class BindingCheck
{
    /// <exception cref="MacOnnxException">A binding does not fit the graph (MAC0403).</exception>
    public static void Check(Manifest manifest, string file, IEnumerable<Binding> bindings, InferenceSession session)
    {
        var buffers = manifest.Buffers.ToDictionary(b => b.Name, StringComparer.Ordinal);
        foreach (var binding in bindings)
        {
            var isInput = binding.Direction == BindingDirection.In;
            var ports = isInput ? session.InputMetadata : session.OutputMetadata;
            var buffer = buffers[binding.Buffer];
            Require(ports.TryGetValue(binding.Value, out var port), $"it has no {binding.Direction} '{binding.Value}'");
            Require(
                port!.IsTensor && (int)port.ElementDataType == (int)buffer.Type && Fits(port.Dimensions, buffer),
                $"'{binding.Value}' does not fit the buffer '{buffer.Name}'"
            );
        }

        var data = manifest.Inputs.Select(i => i.Name).Append(manifest.Target?.Name);
        var known = bindings.Where(b => b.Direction == BindingDirection.In).Select(b => b.Value).Concat(data);
        var unbound = session.InputNames.Except(known).FirstOrDefault();
        Require(unbound is null, $"nothing is bound to its input '{unbound}'");

        void Require(bool holds, string what)
        {
            if (!holds)
            {
                throw new MacOnnxException(
                    "MAC0403",
                    file,
                    $"The graph is not the one that the manifest describes: {what}.",
                    "Rewrite the model again."
                );
            }
        }
    }

    /// <summary>Whether dimensions, negative where they are open, are those of a buffer.</summary>
    private static bool Fits(int[] dims, BufferInfo buffer) =>
        dims.Length == buffer.Dims.Length && dims.Zip(buffer.Dims).All(d => d.First < 0 || d.First == d.Second);
}
