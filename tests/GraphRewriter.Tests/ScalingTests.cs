using System.Runtime.InteropServices;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>Tests that run one after the other, when all others have ended.</summary>
[CollectionDefinition(DisableParallelization = true)]
public sealed class Alone;

/// <summary>Rewriting four times as many nodes takes about four times as long, whatever hangs together how.</summary>
[Collection(typeof(Alone))]
public sealed partial class ScalingTests : IDisposable
{
    private const int Width = 4;

    /// <summary>
    /// Linear work takes 4 times as long, n log n some more, quadratic work 16 times. Caches that no longer hold
    /// everything, and the garbage collector, add to the larger model.
    /// </summary>
    private const double MostRatio = 8;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>
    /// The processor time of the thread that rewrites, so that other work on the machine does not count. No other test
    /// runs at the same time, since their garbage would be collected in this thread too.
    /// </summary>
    [Theory]
    [InlineData("chain", 1000)]
    [InlineData("layers", 150)]
    [InlineData("fan", 1000)]
    [InlineData("residual", 300)]
    [InlineData("shapes", 300)]
    public void FourTimesTheNodesTakeFourTimesAsLong(string kind, int nodes) => Compare(kind, nodes);

    [Theory]
    [Trait("Category", "Nightly")]
    [InlineData("chain", 8000)]
    [InlineData("layers", 1500)]
    [InlineData("fan", 8000)]
    [InlineData("residual", 2500)]
    [InlineData("shapes", 2000)]
    public void SoDoManyNodes(string kind, int nodes)
    {
        Assert.SkipUnless(
            Environment.GetEnvironmentVariable("MACONNX_NIGHTLY") == "1",
            "Takes long: set MACONNX_NIGHTLY=1."
        );
        Compare(kind, nodes);
    }

    /// <summary>
    /// Large graphs are shown to ONNX Runtime part by part, which must not lose what shapes are computed from.
    /// </summary>
    [Fact]
    public void ShapesReachAcrossAnyNumberOfNodes()
    {
        var (last, shape) = ("x", Onnx.Node("Shape", ["x"], ["shape"]));
        var nodes = new List<NodeProto> { shape };
        for (var i = 0; i < 9000; i++)
        {
            nodes.Add(Onnx.Node("Relu", [last], [last = $"v{i}"]));
        }

        nodes.Add(Onnx.Node("Reshape", [last, "shape"], ["reshaped"]));
        nodes.Add(Onnx.Node("Gemm", ["reshaped", "w"], ["y"]));
        var graph = Onnx.Graph(
            [.. nodes],
            [Onnx.Info("x", ElementType.Float, -1, Width)],
            [Onnx.Info("y", ElementType.Float, -1, Width)],
            ("w", Onnx.Floats(Width, Width))
        );
        var path = _folder.File("long.onnx", Onnx.Model(graph).ToByteArray());
        var (package, _) = Rewriter.Rewrite(path);
        Assert.Equal("MAC dense", package.Manifest.Parameters.Single(p => p.Name == "w").Treatment);
    }

    private void Compare(string kind, int nodes)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "The processor time of a thread is known for Linux.");
        var (small, large) = (Save(kind, nodes), Save(kind, 4 * nodes));
        Time(small);
        var (least, ratio, attempts) = (double.MaxValue, double.MaxValue, 0);
        while (ratio > MostRatio && attempts++ < 4)
        {
            least = Math.Min(least, Time(small));
            ratio = Math.Min(ratio, Time(large) / least);
        }

        Assert.True(ratio <= MostRatio, $"{kind}: {4 * nodes} nodes take {ratio:0.0} times as long as {nodes}.");
    }

    /// <summary>Rewrites as programs do, without the verification of tests, and gives the processor time.</summary>
    private static double Time(string path)
    {
        GC.Collect();
        PassRunner.Verifies = false;
        try
        {
            var before = ThreadTime();
            Rewriter.Rewrite(path);
            return ThreadTime() - before;
        }
        finally
        {
            PassRunner.Verifies = true;
        }
    }

    private string Save(string kind, int count)
    {
        var (nodes, constants, last) = (new List<NodeProto>(), new List<(string, Ir.Tensor)>(), "x");
        switch (kind)
        {
            case "chain":
                Parameter("b", Width);
                last = Emit("Add", last, "b");
                for (var i = 0; i < count; i++)
                {
                    last = Emit(i % 2 == 0 ? "Tanh" : "Relu", last);
                }

                break;
            case "layers":
                for (var i = 0; i < count; i++)
                {
                    last = Emit(
                        "Relu",
                        Emit("Gemm", last, Parameter($"w{i}", Width, Width), Parameter($"b{i}", Width))
                    );
                }

                break;
            case "fan":
                var shared = Emit("Add", last, Parameter("b", Width));
                last = shared;
                for (var i = 0; i < count; i++)
                {
                    last = Emit("Add", last, shared);
                }

                break;
            case "residual":
                for (var i = 0; i < count; i++)
                {
                    last = Emit("Add", last, Emit("Tanh", Emit("Mul", last, Parameter($"s{i}", Width))));
                }

                break;
            default:
                Parameter("b", Width);
                last = Emit("Add", last, "b");
                for (var i = 0; i < count; i++)
                {
                    last = Emit("Reshape", Emit("Relu", last), Emit("Shape", last));
                }

                break;
        }

        var graph = Onnx.Graph(
            [.. nodes],
            [Onnx.Info("x", ElementType.Float, -1, Width)],
            [Onnx.Info(last, ElementType.Float, -1, Width)],
            [.. constants]
        );
        return _folder.File($"{kind}{count}.onnx", Onnx.Model(graph).ToByteArray());

        string Emit(string op, params string[] inputs)
        {
            var output = $"v{nodes.Count}";
            nodes.Add(Onnx.Node(op, inputs, [output]));
            return output;
        }

        string Parameter(string name, params long[] dims)
        {
            constants.Add((name, Onnx.Floats(dims)));
            return name;
        }
    }

    private static double ThreadTime()
    {
        const int ThreadClock = 3;
        var time = new long[2];
        Assert.Equal(0, GetTime(ThreadClock, time));
        return time[0] + (time[1] * 1e-9);
    }

    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int GetTime(int clock, [Out] long[] time);
}
