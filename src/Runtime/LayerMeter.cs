using System.Numerics.Tensors;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.Runtime;

/// <summary>Measures what a step does to each layer: the diagnostics graph before it, the weights around it.</summary>
/// <param name="manifest">The package's.</param>
/// <param name="graph">The diagnostics graph.</param>
/// <param name="buffers">The buffers.</param>
internal sealed class LayerMeter(Manifest manifest, BoundSession graph, BufferSet buffers) : IDisposable
{
    private readonly BufferInfo[] _weights =
    [
        .. manifest.Diagnostics.Keys.Select(w => manifest.Buffers.First(b => b.Name == w)),
    ];
    private readonly List<float[]> _before = [];

    /// <summary>Runs the graph and keeps the weights.</summary>
    public void Begin()
    {
        graph.Run();
        _before.Clear();
        _before.AddRange(_weights.Select(w => buffers.View(w).Span<float>().ToArray()));
    }

    /// <summary>Gives what the step between did.</summary>
    public LayerDiagnostics[] End()
    {
        var found = _weights.Zip(
            _before,
            (weight, before) =>
            {
                var numbers = buffers.Floats(manifest.Diagnostics[weight.Name]);
                var update = TensorPrimitives.Distance(buffers.View(weight).Span<float>(), before);
                return new LayerDiagnostics(
                    weight.Name,
                    numbers[0],
                    numbers[1],
                    numbers[2],
                    update / TensorPrimitives.Norm<float>(before)
                );
            }
        );
        return [.. found];
    }

    public void Dispose() => graph.Dispose();
}
