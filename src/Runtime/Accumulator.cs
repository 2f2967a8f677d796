using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;

namespace MacOnnx.Runtime;

/// <summary>Averages the gradients and statistics of the batches of one step.</summary>
/// <remarks>
/// The first batch writes to the buffers that the update reads; each further one writes to buffers of its own, which
/// the accumulation graph then adds.
/// </remarks>
internal sealed class Accumulator : IDisposable
{
    private readonly BoundSession _session;
    private readonly ScalarTable _scalars;
    private readonly Dictionary<string, string> _batch;
    private double _gradients;
    private double _statistics;

    /// <summary>Initializes a new instance of the <see cref="Accumulator"/> class.</summary>
    /// <param name="package">The package.</param>
    /// <param name="session">The accumulation graph, which the accumulator disposes.</param>
    /// <param name="buffers">The buffers.</param>
    public Accumulator(TrainingPackage package, BoundSession session, BufferSet buffers)
    {
        _session = session;
        _scalars = new(package.Manifest, ScalarTable.ReadBy(package.Manifest, PackageFiles.Accumulation), buffers);
        _batch = package
            .Manifest.Buffers.Where(b => b.Role == BufferRole.Batch)
            .ToDictionary(b => b.Name[PackageFiles.BatchPrefix.Length..], b => b.Name, StringComparer.Ordinal);
    }

    /// <summary>Gives the buffer of a batch's gradient or statistic; for other buffers themselves.</summary>
    public string BatchOf(string buffer) => _batch.GetValueOrDefault(buffer, buffer);

    /// <summary>Gets the weight of the gradients of all batches of the step.</summary>
    public double LossCount => _gradients;

    /// <summary>Takes the weights of a step's first batch: of its gradients and of its statistics.</summary>
    public void Begin(double gradients, double statistics) => (_gradients, _statistics) = (gradients, statistics);

    /// <summary>Adds a further batch.</summary>
    /// <param name="gradients">The weight of its gradients.</param>
    /// <param name="statistics">The weight of its statistics.</param>
    /// <param name="isPending">Whether no update has taken the batch before.</param>
    public void Add(double gradients, double statistics, bool isPending)
    {
        var (keepGradients, gainGradients) = Shares(ref _gradients, gradients);
        var (keepStatistics, gainStatistics) = Shares(ref _statistics, statistics);
        _scalars.Set(name =>
            name switch
            {
                "gradient_keep" => keepGradients,
                "gradient_gain" => gainGradients,
                "statistic_keep" => keepStatistics,
                "statistic_gain" => gainStatistics,
                "statistic_pending" => isPending ? 1 : 0,
                _ => null,
            }
        );
        _session.Run();
    }

    public void Dispose() => _session.Dispose();

    /// <summary>Batches without weight, such as those whose labels are all ignored, leave the mean as it is.</summary>
    private static (double Keep, double Gain) Shares(ref double sum, double weight)
    {
        var before = sum;
        sum += weight;
        return sum > 0 ? (before / sum, weight / sum) : (1, 0);
    }
}
