using System.CommandLine;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Cli;

/// <summary>Data, and the package that they fit.</summary>
/// <param name="Package">The package: the one given, or made again where the labels ask for another class axis.</param>
/// <param name="Data">The data.</param>
internal sealed record DataInput(TrainingPackage Package, Dataset Data)
{
    /// <summary>What <c>--data</c> takes.</summary>
    public const string Help =
        "A .npz or .csv file, or a folder of .npy or IDX files. For a language model: a .txt file, whose "
        + "bytes are the tokens, or a .npy or .bin (16-bit) file of token ids.";

    /// <summary>Makes the option <c>--context</c>.</summary>
    public static Option<long?> Context() =>
        Options.Number<long>(
            "--context",
            "Tokens a sample, where the data are tokens. Default what the model fixes.",
            "L"
        );

    /// <summary>Loads a data set for a package.</summary>
    /// <param name="package">The package.</param>
    /// <param name="path">The file or folder.</param>
    /// <param name="context">The tokens of a sample, where the file is one of tokens; null for what the model
    /// fixes.</param>
    /// <param name="preferTest">Whether to take the test files of a folder as MNIST ships, where they are
    /// there.</param>
    public static DataInput Load(TrainingPackage package, string path, long? context, bool preferTest = false)
    {
        if (TokenFile.IsTokenFile(path))
        {
            return LoadTokens(package, path, context);
        }

        if (context is not null)
        {
            throw new MacOnnxException(
                "MAC0303",
                "--context",
                $"{path} holds no tokens.",
                "Leave the option out, or give a .txt, .npy or .bin file."
            );
        }

        var split = preferTest && HasTestFiles(path) ? DatasetSplit.Test : DatasetSplit.Train;
        var arrays = Dataset.ReadArrays(path, Dataset.SpecsOf(package.Manifest), split);
        if (package.Manifest.Target is { } target && arrays.TryGetValue(target.Name, out var labels))
        {
            package = ClassAxis.Fit(package, labels.Dims.AsSpan());
        }

        return new(package, new Dataset(path, Dataset.SpecsOf(package.Manifest), arrays));
    }

    private static DataInput LoadTokens(TrainingPackage package, string path, long? context)
    {
        var manifest = package.Manifest;
        if (manifest.Target is null)
        {
            throw new MacOnnxException(
                "MAC0609",
                path,
                "The model computes its loss itself, so that nothing says what its labels are.",
                "Give a .npz file with an array for each input."
            );
        }

        // Every token has a label: the logits less their class axis have the shape of the input.
        var data = Dataset.FromTokens(path, Dataset.SpecsOf(manifest), TokenFile.Read(path), context);
        var fitted = ClassAxis.Fit(package, data[manifest.Target.Name].Dims.AsSpan());
        return new(
            fitted,
            ReferenceEquals(fitted, package)
                ? data
                : Dataset.FromTokens(path, Dataset.SpecsOf(fitted.Manifest), TokenFile.Read(path), context)
        );
    }

    /// <summary>Whether a path is a folder with MNIST's test files.</summary>
    public static bool HasTestFiles(string path) =>
        Directory.Exists(path) && Directory.EnumerateFiles(path, "t10k-*").Any();

    /// <summary>Gives the validation data that were given, or that are beside the training data.</summary>
    public static Dataset? Validation(TrainingPackage package, string? given, Dataset data, long? context)
    {
        var path = given ?? (HasTestFiles(data.Source) ? data.Source : null);
        return path is null
            ? null
            : Load(package, path, TokenFile.IsTokenFile(path) ? context : null, preferTest: true).Data;
    }

    /// <summary>
    /// Gives the options that data suggest. Without validation data, part of a file of a kind that people make without
    /// splitting it is split off.
    /// </summary>
    public static TrainerOptions DefaultOptions(Dataset data, Dataset? validation)
    {
        var isText = Path.GetExtension(data.Source).ToUpperInvariant() is ".CSV" or ".TXT";
        return new()
        {
            BatchSize = DefaultBatchSize(data),
            ValidationFraction = validation is null && isText ? 0.1 : 0,
        };
    }

    /// <summary>Gives the batch size that the model fixes, or else 64.</summary>
    public static int DefaultBatchSize(Dataset data) =>
        data.Specs[0].Dims is [> 0 and <= int.MaxValue, ..]
            ? (int)data.Specs[0].Dims[0]
            : new TrainerOptions().BatchSize;
}
