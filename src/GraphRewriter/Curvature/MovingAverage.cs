using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// The exponential moving average of the curvature graph, with the weight that it carries: e' = g e + (1 - g) m and
/// w' = g w + (1 - g), so that e / w is unbiased also where g changes between updates (w = 1 - g^n where it does not).
/// </summary>
/// <remarks>In runs that only refresh, e and w stay; in runs that only update, the cached p stays.</remarks>
internal sealed class MovingAverage
{
    private readonly Term _keep;
    private readonly Term _gain;
    private readonly Term _refreshKeep;
    private readonly Term _refreshGain;

    /// <summary>Emits what all averages share: the coefficients and the weight.</summary>
    public MovingAverage(BoundGraph g)
    {
        (g.B.Origin, g.B.Prefix) = ("moving average", "average/");
        _keep = g.Scalar("mean_keep", "1 - update + update * stat_decay");
        _gain = g.Scalar("mean_gain", "update * (1 - stat_decay)");
        var refresh = g.Scalar("refresh", "refresh");
        var state = g.Buffers.Add("curvature.average_weight", BufferRole.State, ElementType.Float, []);
        var weight = (_keep * g.Read(state)) + _gain;
        var zero = weight.Scalar(0);
        _refreshKeep = 1 - refresh;
        _refreshGain = (refresh / weight).Where(weight.Op("Greater", zero), zero);
        g.Write(state, weight);
    }

    /// <summary>Emits the average of a statistic, and the unbiased one in use, and writes both.</summary>
    /// <param name="g">The curvature graph.</param>
    /// <param name="average">The buffer of the average.</param>
    /// <param name="cached">The buffer of the unbiased average in use.</param>
    /// <param name="batch">The batch's statistic.</param>
    /// <returns>The unbiased average in use from now on.</returns>
    public Term Update(BoundGraph g, string average, string cached, Term batch)
    {
        var next = (_keep * g.Read(average)) + (_gain * batch);
        var refreshed = (_refreshKeep * g.Read(cached)) + (_refreshGain * next);
        g.Write(average, next);
        g.Write(cached, refreshed);
        return refreshed;
    }
}
