using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>The arrays that one model trains on: its inputs, and the target.</summary>
/// <remarks>
/// <para><b>Samples</b> are the rows (axis 0) of the first input. An array with k times as many rows gives k rows a
/// sample. An array without a batch
/// axis is whole, the same for every batch: a scalar; an array whose first axis the model fixes while the first input's
/// is free; or, where
/// the model fixes both, one that has exactly the fixed rows and does not grow with the samples.</para>
/// <para><b>Types</b>: integers, bool, float16, float and double become the model's floating-point type; integers and
/// bool become the model's
/// integer type if every value fits. Floating-point data never become integers.</para>
/// <para><b>Shapes</b>: the axes after the first are reshaped to the model's where the model fixes them all and the
/// number of elements is the same
/// ([N,28,28] to [N,1,28,28] or [N,784]); where the model leaves some free, only axes of size 1 are inserted.</para>
/// <para><b>Language models</b> train on windows of one stream of tokens instead: <see cref="FromTokens"/>.</para>
/// </remarks>
public sealed class Dataset
{
    private readonly Tensor[] _arrays;
    private readonly TokenStream? _tokens;
    private long[]? _rowsPerSample;

    /// <summary>
    /// Initializes a new instance of the <see cref="Dataset"/> class from arrays in memory, which are not copied where
    /// they fit as they are.
    /// </summary>
    /// <param name="source">Where the arrays are from, for messages.</param>
    /// <param name="specs">What the model expects: its inputs in order, then the target if it has one.</param>
    /// <param name="arrays">The arrays by name; further ones are ignored.</param>
    /// <exception cref="MacOnnxException">Missing arrays, all in one message (MAC0602); wrong shape (MAC0603) or type
    /// (MAC0604).</exception>
    public Dataset(string source, IReadOnlyList<InputSpec> specs, IReadOnlyDictionary<string, Tensor> arrays)
    {
        ArgumentNullException.ThrowIfNull(specs);
        ArgumentNullException.ThrowIfNull(arrays);
        ArgumentOutOfRangeException.ThrowIfZero(specs.Count);
        Source = source;
        Specs = specs;
        DatasetFile.RequireAll(source, specs, arrays.Keys);
        _arrays = [.. specs.Select(s => TensorFit.Fit(arrays[s.Name], s, Where(s)))];
        for (var i = 0; i < _arrays.Length; i++)
        {
            if (specs[0].AnyRows && !specs[i].AnyRows && !specs[i].Fits(_arrays[i].Dims.AsSpan()))
            {
                throw TensorFit.WrongShape(specs[i], _arrays[i].Dims.AsSpan(), Where(specs[i]));
            }
        }

        Samples = _arrays[0].Dims is [var rows, ..] ? rows : 1;
    }

    private Dataset(Dataset whole, Tensor[] arrays)
        : this(whole.Source, whole.Specs, arrays) => _rowsPerSample = whole._rowsPerSample;

    private Dataset(string source, IReadOnlyList<InputSpec> specs, TokenStream tokens, long shift = 0)
        : this(source, specs, tokens.Windows(shift)) => _tokens = tokens;

    private Dataset(string source, IReadOnlyList<InputSpec> specs, Tensor[] arrays) =>
        (Source, Specs, _arrays, Samples) = (source, specs, arrays, arrays[0].Dims[0]);

    /// <summary>Gets where the arrays are from.</summary>
    public string Source { get; }

    /// <summary>Gets what the model expects: its inputs in order, then the target.</summary>
    public IReadOnlyList<InputSpec> Specs { get; }

    /// <summary>Gets the number of samples: the rows of the first input.</summary>
    public long Samples { get; }

    /// <summary>Gets the arrays in the order of <see cref="Specs"/>.</summary>
    internal IReadOnlyList<Tensor> Arrays => _arrays;

    /// <summary>Gets an array as the model expects it.</summary>
    /// <param name="name">The input's or the target's name.</param>
    /// <exception cref="ArgumentException">No spec has that name.</exception>
    public Tensor this[string name] => _arrays[IndexOf(name)];

    /// <summary>Loads a data set.</summary>
    /// <remarks>
    /// <para><b>.npz</b>: arrays named like the model's inputs and the target. <b>Folder</b>: the IDX files that MNIST
    /// ships as (images for the one
    /// input, scaled from 0..255 to 0..1 if the model expects floats; labels for the target), or one file for each
    /// array:
    /// NAME.npy, NAME.idx or NAME.idx.gz.</para>
    /// <para><b>.csv</b>: numbers, with or without a header line. An input's or the target's columns are those headed
    /// NAME, or NAME_0, NAME_1, ... in
    /// this order. A target without such columns is the column headed <c>label</c>, else the last one. A single input
    /// without such columns
    /// takes all the others in order.</para>
    /// </remarks>
    /// <param name="path">The file or folder.</param>
    /// <param name="specs">What the model expects: its inputs in order, then the target if it has one.</param>
    /// <param name="split">Which files of a folder as MNIST ships; files of other kinds have one part only, whatever
    /// this says.</param>
    /// <exception cref="MacOnnxException">Not a known kind of data (MAC0601); missing arrays, all in one message
    /// (MAC0602); wrong shape (MAC0603) or type
    /// (MAC0604); a file that cannot be read (MAC0402) or is damaged (MAC0403).</exception>
    public static Dataset Load(string path, IReadOnlyList<InputSpec> specs, DatasetSplit split = DatasetSplit.Train) =>
        new(path, specs, ReadArrays(path, specs, split));

    /// <summary>
    /// Reads the arrays of a data set without fitting them to the model's shapes, as <see cref="Load"/> does.
    /// </summary>
    /// <inheritdoc cref="Load"/>
    public static IReadOnlyDictionary<string, Tensor> ReadArrays(
        string path,
        IReadOnlyList<InputSpec> specs,
        DatasetSplit split = DatasetSplit.Train
    )
    {
        ArgumentNullException.ThrowIfNull(specs);
        ArgumentOutOfRangeException.ThrowIfZero(specs.Count);
        return DatasetFile.Read(path, specs, split);
    }

    /// <summary>Makes the samples of a language model from one stream of tokens.</summary>
    /// <remarks>The stream is cut into windows of <paramref name="context"/> tokens that do not overlap. A window is
    /// the model's input, the same
    /// window one token later the labels: each token's label is the token that follows. Windows are views of the
    /// stream, not copies. Where
    /// batches are shuffled, every epoch cuts at other places, as the seed says; fewer than two windows' tokens at the
    /// end are left out for that.</remarks>
    /// <param name="source">Where the tokens are from, for messages.</param>
    /// <param name="specs">What the model expects: one integer input [batch, sequence], and labels of that
    /// shape.</param>
    /// <param name="tokens">The ids, one axis of any integer type; converted once if the model's type is
    /// another.</param>
    /// <param name="context">The tokens of a sample; null for what the model fixes.</param>
    /// <exception cref="MacOnnxException">The model takes no tokens, the context is missing, not what the model fixes
    /// or too long for the stream
    /// (MAC0609); wrong shape (MAC0603) or type (MAC0604).</exception>
    public static Dataset FromTokens(string source, IReadOnlyList<InputSpec> specs, Tensor tokens, long? context) =>
        new(source, specs, new TokenStream(source, specs, tokens, context));

    /// <summary>Gives what a rewritten model expects: its inputs in order, then its target if it has one.</summary>
    /// <param name="manifest">The package's manifest.</param>
    public static IReadOnlyList<InputSpec> SpecsOf(Manifest manifest)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        return
        [
            .. manifest
                .Inputs.Append(manifest.Target)
                .OfType<TensorInfo>()
                .Select(i => new InputSpec(i.Name, i.Type, [.. i.Dims])),
        ];
    }

    /// <summary>Splits off samples for validation: chosen at random by the seed alone, both parts in the order of the
    /// data. Of a stream of tokens
    /// it is the end.</summary>
    /// <param name="validationFraction">The part for validation, above 0 and below 1; rounded to at least one sample on
    /// either side.</param>
    /// <param name="seed">Which samples.</param>
    /// <returns>The two parts; whole arrays are in both.</returns>
    /// <exception cref="MacOnnxException">Fewer than two samples or a fraction out of range (MAC0607), rows that do not
    /// belong to samples (MAC0605), or
    /// a part of a stream of tokens that is too short (MAC0609).</exception>
    public (Dataset Train, Dataset Validation) Split(double validationFraction, ulong seed)
    {
        if (Samples < 2 || !(validationFraction is > 0 and < 1))
        {
            throw new MacOnnxException(
                "MAC0607",
                Source,
                $"{Samples} samples cannot be split with a validation part of {validationFraction}.",
                "Give a part between 0 and 1, and at least two samples."
            );
        }

        if (_tokens is not null)
        {
            var (start, end) = _tokens.Split(Source, validationFraction);
            return (new Dataset(Source, Specs, start), new Dataset(Source, Specs, end));
        }

        var rows = RowsPerSample();
        var order = new int[Samples];
        SplitMix64.Shuffle(order, seed, stream: -1); // Epochs, which count from 0, use the other streams.
        var validation = (int)Math.Clamp(Math.Round(validationFraction * Samples), 1, Samples - 1);
        return (Part(order.AsSpan(validation)), Part(order.AsSpan(0, validation)));

        Dataset Part(Span<int> samples)
        {
            samples.Sort();
            var arrays = new Tensor[_arrays.Length];
            for (var i = 0; i < arrays.Length; i++)
            {
                arrays[i] = _arrays[i];
                if (rows[i] > 0)
                {
                    var dims = arrays[i].Dims.SetItem(0, samples.Length * rows[i]);
                    var data = new byte[Tensor.CountOf(dims.AsSpan()) * arrays[i].Type.Size()];
                    CopySamples(i, samples, data);
                    arrays[i] = new Tensor(arrays[i].Type, dims, data);
                }
            }

            return new Dataset(this, arrays);
        }
    }

    /// <summary>Checks that every label is a class, or ignored, and that they are not all ignored.</summary>
    /// <param name="target">The name of the labels.</param>
    /// <param name="classes">The number of classes; labels are 0 to this less one.</param>
    /// <param name="ignoreIndex">A further label that is allowed.</param>
    /// <exception cref="MacOnnxException">A label is out of range: names the first such row and value; or all
    /// are ignored (MAC0606).</exception>
    /// <exception cref="ArgumentException">The target is not an array of int64 or int32.</exception>
    public void CheckLabels(string target, long classes, long? ignoreIndex = null)
    {
        var labels = _tokens?.Labels ?? this[target];
        if (labels.Type is not (ElementType.Int64 or ElementType.Int32))
        {
            throw new ArgumentException($"'{target}' is {labels.Type}.", nameof(target));
        }

        var isIgnored = labels.ElementCount > 0;
        for (var i = 0; i < labels.ElementCount; i++)
        {
            var label = labels.Type == ElementType.Int64 ? labels.Span<long>()[i] : labels.Span<int>()[i];
            isIgnored &= label == ignoreIndex;
            if ((label < 0 || label >= classes) && label != ignoreIndex)
            {
                var row = labels.Dims.IsEmpty ? 0 : i / (labels.ElementCount / labels.Dims[0]);
                throw new MacOnnxException(
                    "MAC0606",
                    Where(Specs[IndexOf(target)]),
                    $"Row {row} has the label {label}, but the model has the classes 0 to {classes - 1}.",
                    "Number the classes from 0, or name the label to leave out with RewriteOptions.IgnoreIndex."
                );
            }
        }

        if (isIgnored)
        {
            throw new MacOnnxException(
                "MAC0606",
                Where(Specs[IndexOf(target)]),
                $"Every label is {ignoreIndex}, which is ignored, so that nothing is left to compute a loss of.",
                "Give labels that are classes, or ignore another one with RewriteOptions.IgnoreIndex."
            );
        }
    }

    /// <summary>
    /// Checks that every label is a class of a rewritten model; does nothing for losses without classes.
    /// </summary>
    public void CheckLabels(Manifest manifest)
    {
        if (manifest is { Classes: { } classes, Target: { } target })
        {
            CheckLabels(target.Name, classes, manifest.Options.IgnoreIndex);
        }
    }

    /// <summary>
    /// Gives the data as an epoch of shuffled batches cuts them: a stream of tokens at a place that the seed and the
    /// epoch decide, else as they are.
    /// </summary>
    internal Dataset ForEpoch(ulong seed, long epoch) =>
        _tokens is null ? this : new Dataset(Source, Specs, _tokens, _tokens.Shift(seed, epoch));

    /// <summary>Gives the rows a sample of every array, 0 for one that is whole.</summary>
    /// <exception cref="MacOnnxException">Rows that do not belong to samples (MAC0605).</exception>
    internal IReadOnlyList<long> RowsPerSample()
    {
        if (_rowsPerSample is null)
        {
            if (Samples is 0 or > int.MaxValue || _arrays[0].Dims.IsEmpty)
            {
                throw new MacOnnxException(
                    "MAC0605",
                    Where(Specs[0]),
                    $"{_arrays[0]} gives no samples to make batches of.",
                    "Give the first input one row a sample, or choose the TrainerOptions.BatchSize that "
                        + "passes all arrays as they are."
                );
            }

            _rowsPerSample = [.. Specs.Select((_, i) => RowsPerSample(i))];
        }

        return _rowsPerSample;
    }

    /// <summary>Copies samples of one array into consecutive rows.</summary>
    internal void CopySamples(int array, ReadOnlySpan<int> samples, Span<byte> destination)
    {
        var source = _arrays[array].Data.Span;
        var size = (int)(source.Length / Samples);
        for (var i = 0; i < samples.Length; i++)
        {
            source.Slice(samples[i] * size, size).CopyTo(destination[(i * size)..]);
        }
    }

    /// <summary>Gives the place of an input or the target, for messages.</summary>
    internal string Where(InputSpec spec) => $"{Source}, array '{spec.Name}'";

    private long RowsPerSample(int i)
    {
        if (_arrays[i].Dims is not [var rows, ..])
        {
            return 0;
        }

        var (spec, first) = (Specs[i], Specs[0]);
        var whole =
            i > 0
            && !spec.AnyRows
            && (first.AnyRows || (rows == spec.Dims[0] && (Samples != first.Dims[0] || rows % Samples != 0)));
        return whole ? 0
            : rows > 0 && rows % Samples == 0 ? rows / Samples
            : throw new MacOnnxException(
                "MAC0605",
                Where(spec),
                $"{rows} rows are not a multiple of the {Samples} samples of '{first.Name}'.",
                "Give every array the same number of rows a sample, or choose the TrainerOptions.BatchSize "
                    + "that passes all arrays as they are."
            );
    }

    private int IndexOf(string name)
    {
        for (var i = 0; i < Specs.Count; i++)
        {
            if (Specs[i].Name == name)
            {
                return i;
            }
        }

        throw new ArgumentException($"The model has no input or target '{name}'.", nameof(name));
    }
}
