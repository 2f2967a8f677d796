using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>The shipped MLP and digits.</summary>
internal static class Digits
{
    public static TrainingPackage Package { get; } =
        Rewriter.Rewrite(Path.Combine(Repository.Root, "models", "digits-mlp.onnx")).Package;

    public static Dataset Data { get; } =
        Dataset.Load(Path.Combine(Repository.Root, "models", "digits.csv"), Dataset.SpecsOf(Package.Manifest));

    /// <summary>Makes a session; one thread, so that sums have one order.</summary>
    public static MacTrainingSession Session(TrainingPackage? package = null) =>
        new(package ?? Package, o => o.IntraOpNumThreads = 1);

    /// <summary>Gives all state as one sequence of bytes.</summary>
    public static byte[] Bits(MacTrainingSession session) =>
        [.. session.GetState().OrderBy(s => s.Key, StringComparer.Ordinal).SelectMany(s => s.Value.Data.ToArray())];
}

/// <summary>Calls an action at every report.</summary>
internal sealed class Watch(Action<TrainingProgress> action) : IProgress<TrainingProgress>
{
    public void Report(TrainingProgress value) => action(value);
}
