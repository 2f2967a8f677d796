using MacOnnx.GraphRewriter;
using MacOnnx.Runtime;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Cli;

/// <summary>Data, and the package that they fit.</summary>
/// <param name="Package">The package: the one given, or made again where the labels ask for another class axis.</param>
/// <param name="Data">The data.</param>
internal sealed record DataInput(TrainingPackage Package, Dataset Data)
{
    /// <summary>Loads a data set for a package.</summary>
    /// <param name="package">The package.</param>
    /// <param name="path">The file or folder.</param>
    /// <param name="preferTest">Whether to take the test files of a folder as MNIST ships, where they are there.</param>
    public static DataInput Load(TrainingPackage package, string path, bool preferTest = false)
    {
        var split = preferTest && HasTestFiles(path) ? DatasetSplit.Test : DatasetSplit.Train;
        var arrays = Dataset.ReadArrays(path, Dataset.SpecsOf(package.Manifest), split);
        if (package.Manifest.Target is { } target && arrays.TryGetValue(target.Name, out var labels))
        {
            package = ClassAxis.Fit(package, labels.Dims.AsSpan());
        }

        return new(package, new Dataset(path, Dataset.SpecsOf(package.Manifest), arrays));
    }

    /// <summary>Whether a path is a folder with MNIST's test files.</summary>
    public static bool HasTestFiles(string path) => Directory.Exists(path) && Directory.EnumerateFiles(path, "t10k-*").Any();

    /// <summary>Gives the batch size that the model fixes, or else 64.</summary>
    public static int DefaultBatchSize(Dataset data) => data.Specs[0].Dims is [> 0 and <= int.MaxValue, ..] ? (int)data.Specs[0].Dims[0] : new TrainerOptions().BatchSize;
}
