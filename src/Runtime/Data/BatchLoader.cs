using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;
using TensorElementType = Microsoft.ML.OnnxRuntime.Tensors.TensorElementType;

namespace MacOnnx.Runtime.Data;

/// <summary>Cuts a data set into batches; while one is in use, the next is gathered in the background.</summary>
/// <remarks>The order of an epoch depends on the seed and the epoch's number alone, so a run can go on from any batch
/// of any epoch.
/// For use from one thread. Batches live in two sets of native buffers that take turns; whole arrays are copied
/// once.</remarks>
public sealed class BatchLoader : IBatchSource, IDisposable
{
    private readonly Gate _gate;
    private readonly Dataset _dataset;
    private readonly bool _shuffle;
    private readonly ulong _seed;
    private readonly int _batchSize;
    private readonly long[] _rowsPerSample;
    private readonly int[] _order;
    private readonly List<OrtValue> _owned = [];
    private readonly OrtValue[][] _full;
    private readonly OrtValue[] _rest;
    private Dataset _current;
    private Task<Batch>? _next;
    private long _turn;

    /// <summary>Initializes a new instance of the <see cref="BatchLoader"/> class.</summary>
    /// <param name="dataset">The data, which must not change.</param>
    /// <param name="batchSize">Samples a batch; 0 passes every array exactly as it is, one batch an epoch.</param>
    /// <param name="shuffle">Whether every epoch has an order of its own; with <paramref name="batchSize"/> 0 it has no
    /// effect.</param>
    /// <param name="seed">The seed of the orders.</param>
    /// <param name="dropIncomplete">Whether a last batch of fewer samples is left out. It always is where the model
    /// fixes the batch size.</param>
    /// <exception cref="MacOnnxException">Rows that do not belong to samples (MAC0605), a shape the model does not take
    /// (MAC0603), or no
    /// batch at all (MAC0608).</exception>
    public BatchLoader(Dataset dataset, int batchSize, bool shuffle, ulong seed, bool dropIncomplete = false)
    {
        ArgumentNullException.ThrowIfNull(dataset);
        ArgumentOutOfRangeException.ThrowIfNegative(batchSize);
        _gate = new(this);
        (_dataset, _current, _batchSize, _shuffle, _seed) = (
            dataset,
            dataset,
            batchSize,
            shuffle && batchSize > 0,
            seed
        );
        _rowsPerSample = batchSize == 0 ? new long[dataset.Specs.Count] : [.. dataset.RowsPerSample()];
        var rest = batchSize == 0 ? 0 : (int)(dataset.Samples % batchSize);
        if (dropIncomplete || !dataset.Specs[0].AnyRows)
        {
            rest = 0;
        }

        BatchesPerEpoch = batchSize == 0 ? 1 : (dataset.Samples / batchSize) + (rest > 0 ? 1 : 0);
        SamplesPerEpoch = batchSize == 0 ? dataset.Samples : (dataset.Samples / batchSize * batchSize) + rest;
        CheckShapes();
        _order = batchSize == 0 ? [] : new int[dataset.Samples];
        for (var i = 0; i < _order.Length; i++)
        {
            _order[i] = i;
        }

        try
        {
            var whole = dataset.Arrays.Select((a, i) => _rowsPerSample[i] == 0 ? Whole(a) : null).ToArray();
            _full = new OrtValue[batchSize == 0 ? 1 : Math.Min(2, dataset.Samples / batchSize)][];
            for (var i = 0; i < _full.Length; i++)
            {
                _full[i] = Buffers(whole, batchSize);
            }

            _rest = rest == 0 ? [] : Buffers(whole, rest);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Gets the number of batches of an epoch.</summary>
    public long BatchesPerEpoch { get; }

    /// <summary>Gets the number of samples that an epoch's batches hold together.</summary>
    public long SamplesPerEpoch { get; }

    long? IBatchSource.BatchesPerEpoch => BatchesPerEpoch;

    /// <summary>
    /// Gives the batches of an epoch. Leaving the enumeration early is fine; starting another one ends it.
    /// </summary>
    /// <param name="epoch">The epoch's number, 0 or more.</param>
    /// <param name="firstBatch">The batch to begin with, 0 to <see cref="BatchesPerEpoch"/>.</param>
    /// <param name="cancellationToken">Ends the enumeration before the next batch.</param>
    /// <exception cref="OperationCanceledException">Cancelled.</exception>
    /// <exception cref="InvalidOperationException">A later enumeration has taken over the buffers.</exception>
    public IEnumerable<Batch> Epoch(long epoch, long firstBatch = 0, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(epoch);
        ArgumentOutOfRangeException.ThrowIfNegative(firstBatch);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(firstBatch, BatchesPerEpoch);
        _gate.Enter().Dispose();
        return Enumerate(epoch, firstBatch, cancellationToken);
    }

    /// <summary>
    /// Waits for the batch that is being gathered and frees all buffers, those of the current batch too.
    /// </summary>
    public void Dispose()
    {
        if (_gate.Close())
        {
            Settle();
            _owned.ForEach(v => v.Dispose());
        }
    }

    private IEnumerable<Batch> Enumerate(long epoch, long firstBatch, CancellationToken cancellationToken)
    {
        long turn;
        using (_gate.Enter(nameof(Epoch)))
        {
            Settle();
            turn = ++_turn;
            if (_shuffle)
            {
                SplitMix64.Shuffle(_order, _seed, epoch);
                _current = _dataset.ForEpoch(_seed, epoch);
            }
        }

        try
        {
            for (var index = firstBatch; index < BatchesPerEpoch; index++)
            {
                Batch batch;
                using (_gate.Enter(nameof(Epoch)))
                {
                    if (turn != _turn)
                    {
                        throw new InvalidOperationException("A later enumeration of this loader has begun.");
                    }

                    cancellationToken.ThrowIfCancellationRequested();
                    _next ??= Gather(index);
                    batch = _next.GetAwaiter().GetResult();
                    _next = index + 1 < BatchesPerEpoch ? Gather(index + 1) : null;
                }

                yield return batch;
            }
        }
        finally
        {
            if (turn == _turn)
            {
                Settle();
            }
        }
    }

    /// <summary>Waits until no thread writes into the buffers.</summary>
    private void Settle()
    {
        var next = _next;
        _next = null;
        if (next is not null)
        {
            Task.WaitAny(next); // Unlike Wait it does not throw: nobody asks for that batch any more.
        }
    }

    private Task<Batch> Gather(long index) =>
        Task.Run(() =>
        {
            var first = index * _batchSize;
            var samples = _batchSize == 0 ? _dataset.Samples : Math.Min(_batchSize, _dataset.Samples - first);
            var values = samples < _batchSize ? _rest : _full[index % _full.Length];
            for (var i = 0; i < values.Length; i++)
            {
                if (_rowsPerSample[i] > 0)
                {
                    _current.CopySamples(
                        i,
                        _order.AsSpan((int)first, (int)samples),
                        values[i].GetTensorMutableRawData()
                    );
                }
            }

            return new Batch(values, index, samples);
        });

    private OrtValue[] Buffers(OrtValue?[] whole, long samples) =>
        [
            .. _dataset.Arrays.Select(
                (array, i) =>
                    whole[i] ?? Allocate(array.Type, [samples * _rowsPerSample[i], .. array.Dims.AsSpan()[1..]])
            ),
        ];

    private OrtValue Whole(Tensor array)
    {
        var value = Allocate(array.Type, [.. array.Dims]);
        array.CopyTo(value.GetTensorMutableRawData());
        return value;
    }

    private OrtValue Allocate(ElementType type, long[] dims)
    {
        // Element types have ONNX's numbers here and there.
        var value = OrtValue.CreateAllocatedTensorValue(
            OrtAllocator.DefaultInstance,
            (TensorElementType)(int)type,
            dims
        );
        _owned.Add(value);
        return value;
    }

    /// <summary>Checks what a fixed first axis asks for, which depends on the batch size.</summary>
    private void CheckShapes()
    {
        if (SamplesPerEpoch == 0)
        {
            throw new MacOnnxException(
                "MAC0608",
                _dataset.Source,
                $"{_dataset.Samples} samples make no batch of {_batchSize}.",
                "Give more samples or a smaller batch size."
            );
        }

        for (var i = 0; i < _rowsPerSample.Length; i++)
        {
            var (spec, dims) = (_dataset.Specs[i], _dataset.Arrays[i].Dims);
            var passed = _rowsPerSample[i] == 0 ? dims : dims.SetItem(0, _rowsPerSample[i] * _batchSize);
            if (!spec.Fits(passed.AsSpan()))
            {
                throw new MacOnnxException(
                    "MAC0603",
                    _dataset.Where(spec),
                    $"Wrong data shape: the model expects {spec}, a batch has [{string.Join(',', passed)}].",
                    "Use the batch size that the model was exported with, or export it with a dynamic batch axis."
                );
            }
        }
    }
}
