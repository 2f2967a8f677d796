using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// MAC (arXiv 2506.08464): G' = G - (G p) p^T / (rho + |p|^2), where G = [dW | db] is [out, in + 1] and p the unbiased
/// moving average of the activation mean, with a final 1 for the bias. By the Sherman-Morrison formula this is
/// rho G (p p^T + rho I)^-1.
/// </summary>
/// <param name="Layer">The layer.</param>
/// <param name="InverseScaled">Whether G' keeps the factor 1 / rho of the literal inverse.</param>
/// <remarks>
/// Units may differ in which of several means they take (groups, slices, attention's values). The cached preconditioner
/// is p [means, in] and c = -1 / (rho + |p|^2) [means, 1], so that other graphs need no damping.
/// </remarks>
internal sealed record MacBlock(Layer Layer, bool InverseScaled) : CurvatureBlock(Layer)
{
    private string _average = "";
    private string _cached = "";
    private string _scale = "";

    public override string Name => "MAC";

    /// <summary>Gets which method MAC stands in for, and why; empty where it was asked for.</summary>
    public string Fallback { get; init; } = "";

    public override string Remark => Fallback.Length > 0 ? $"{Fallback} {Layer.Remark}".TrimEnd() : Layer.Remark;

    public override IEnumerable<Statistic> Statistics => Layer.Means.SelectMany(m => m.Statistics);

    private bool IsMatrix => Layer.Groups == 1;

    /// <summary>Gets whether units of a matrix differ in which mean they take.</summary>
    private bool HasChoice => IsMatrix && (Layer.MeanCount > 1 || Layer.MeanOfUnit.Contains(-1));

    public override void Declare(BufferTable buffers)
    {
        var (rows, name) = (Layer.MeanCount, Layer.Weight.Name);
        string State(string suffix, long columns) =>
            buffers.Add($"{name}.{suffix}", BufferRole.State, ElementType.Float, [rows, columns]);
        _average = State("mac_running_mean", Layer.In);
        _cached = State("mac_p", Layer.In);
        _scale = State("mac_scale", 1);
    }

    public override void Update(BoundGraph g, MovingAverage average, Func<Statistic, Term> statistic)
    {
        var means = Layer.Means.Select(m => m.Combine([.. m.Statistics.Select(statistic)])).ToArray();
        var mean = means.Length == 1 ? means[0] : g.B.Concat(means, 0);
        var p = average.Update(g, _average, _cached, mean);
        var square = (p * p).Sum([1]);
        g.Write(_scale, -1 / ((Layer.Bias is null ? square : square + 1) + g.Scalar("damping")));
    }

    public override (Term Weight, Term? Bias) Precondition(BoundGraph g, Term weight, Term? bias)
    {
        (weight, bias) = Scaled(g, weight, bias);
        var (sum, added) = Add(g.B, g.Read(_cached), g.Read(_scale), weight, weight, bias);
        return (new(g.B, sum), bias is { } db ? db + new Term(g.B, added!) : null);
    }

    public override Correction? Correction(BoundGraph g)
    {
        if (InverseScaled)
        {
            return null;
        }

        var (p, scale) = (g.Read(_cached), g.Read(_scale));
        Attr[] attributes = [Int("output_first", Layer.OutputFirst)];
        return new(
            "Mac",
            [p, scale],
            HasChoice ? [.. attributes, Ints("mean_of_unit", [.. Layer.MeanOfUnit.Select(u => (long)u)])] : attributes,
            (b, sum, weight, bias) =>
                Add(b, new(b, p), new(b, scale), sum, new(b, weight), bias is null ? null : new Term(b, bias))
        );
    }

    /// <inheritdoc/>
    /// <remarks>
    /// Without damping MAC takes away G p p^T / |p|^2, whose length is |G p| / |p|. Units that take different means
    /// count each with its own; the shrinkage is the mean over the means.
    /// </remarks>
    public override (Term Shrinkage, Term Cosine)? Measure(BoundGraph g, Term weight, Term? bias)
    {
        var p = g.Read(_cached);
        var square = (p * p).Sum([1]);
        square = Layer.Bias is null ? square : square + 1;
        var shrinkage = (-square * g.Read(_scale)).Mean([0, 1], keepDims: false).Reshape(1);
        var (sum, added) = Add(g.B, p, -1 / square, weight, weight, bias);
        var (taken, all) = (Square(new Term(g.B, sum) - weight), Square(weight));
        if (bias is { } db)
        {
            (taken, all) = (taken + Square(new Term(g.B, added!)), all + Square(db));
        }

        return (shrinkage, (taken / all).Sqrt());
    }

    private static Term Square(Term term)
    {
        var flat = term.Reshape(-1);
        return (flat * flat).Sum([0]);
    }

    private (Term Weight, Term? Bias) Scaled(BoundGraph g, Term weight, Term? bias)
    {
        if (!InverseScaled)
        {
            return (weight, bias);
        }

        var damping = g.Scalar("damping");
        return (weight / damping, bias / damping);
    }

    /// <summary>Adds c p^T with c = scale (G p + db) to a sum; also gives c in the bias's shape.</summary>
    private (Value Sum, Value? Bias) Add(GraphBuilder b, Term p, Term scale, Value sum, Term g, Term? db)
    {
        if (IsMatrix && !Layer.OutputFirst)
        {
            var row = Chosen(Plus(p.Op("MatMul", g), db, 1, Layer.Out) * scale);
            return (b.Op("Gemm", [p.V, row.V, sum], Int("transA", 1)), BiasPart(row, 0, db));
        }

        // [groups, outputs of a group, inputs]; one group is a plain matrix.
        var groups = p.V.KnownShape[0].Size;
        long[] shared = IsMatrix ? [] : [groups];
        long[] rows = IsMatrix ? [Layer.Out] : [Layer.Groups, Layer.Out / Layer.Groups];
        var factor = HasChoice ? p.Transpose(1, 0) : p.Reshape([.. shared, Layer.In, 1]);
        var dot = As(g, [.. rows, Layer.In]).Op("MatMul", factor);
        var scales =
            HasChoice ? scale.Reshape(1, -1)
            : IsMatrix ? scale
            : scale.Reshape(groups, 1, 1);
        var c = Chosen(Plus(dot, db, [.. rows, 1]) * scales);
        var matrix = As(new Term(b, sum), [.. rows, Layer.In]);
        var result = IsMatrix
            ? new Term(b, b.Op("Gemm", [c.V, p.V, matrix.V]))
            : matrix + (c * p.Reshape(groups, 1, Layer.In));
        return (As(result, [.. Layer.Weight.Dims]), BiasPart(c, 1, db));
    }

    private Value? BiasPart(Term c, long means, Term? db) =>
        db is null ? null : (HasChoice ? c.Sum([means], keepDims: false) : c).ReshapeTo(Layer.Bias!.Value);

    /// <summary>
    /// Adds to a matrix-vector product. ONNX Runtime would fuse Add into a Gemm, which is three times slower for one
    /// column; it leaves Sum alone.
    /// </summary>
    private static Term Plus(Term product, Term? other, params ReadOnlySpan<long> dims) =>
        other is { } term ? product.Op("Sum", term.Reshape(dims)) : product;

    /// <summary>Keeps, of a c for every mean, the one of each unit.</summary>
    private Term Chosen(Term c)
    {
        if (!HasChoice)
        {
            return c;
        }

        var (units, means) = (Layer.MeanOfUnit, Layer.MeanCount);
        float[] oneHot = Layer.OutputFirst
            ? [.. units.SelectMany(u => Enumerable.Range(0, means).Select(m => m == u ? 1f : 0f))]
            : [.. Enumerable.Range(0, means).SelectMany(m => units.Select(u => m == u ? 1f : 0f))];
        long[] dims = Layer.OutputFirst ? [Layer.Out, means] : [means, Layer.Out];
        return c * new Term(c.B, c.B.Constant(Ir.Tensor.From<float>(dims, oneHot)));
    }

    private Term As(Term term, params ReadOnlySpan<long> dims) =>
        Layer.Weight.Dims.Length == 2 && IsMatrix && dims.SequenceEqual(Layer.Weight.Dims.AsSpan())
            ? term
            : term.Reshape(dims);
}
