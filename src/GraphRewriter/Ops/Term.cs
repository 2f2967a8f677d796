using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>A value in a formula: its operators emit nodes, so that a rule reads like the mathematics.</summary>
internal readonly record struct Term(GraphBuilder B, Value V)
{
    public ElementType Type => V.Type;

    public static implicit operator Value(Term term) => term.V;

    public static Term operator -(Term a) => a.Op("Neg");

    public static Term operator +(Term a, Term b) => a.Op("Add", b);

    public static Term operator -(Term a, Term b) => a.Op("Sub", b);

    public static Term operator *(Term a, Term b) => a.Op("Mul", b);

    public static Term operator /(Term a, Term b) => a.Op("Div", b);

    public static Term operator +(Term a, double b) => a + a.Scalar(b);

    public static Term operator -(Term a, double b) => a - a.Scalar(b);

    public static Term operator *(Term a, double b) => a * a.Scalar(b);

    public static Term operator /(Term a, double b) => a / a.Scalar(b);

    public static Term operator +(double a, Term b) => b.Scalar(a) + b;

    public static Term operator -(double a, Term b) => b.Scalar(a) - b;

    public static Term operator *(double a, Term b) => b.Scalar(a) * b;

    public static Term operator /(double a, Term b) => b.Scalar(a) / b;

    /// <summary>Gives a scalar of this term's type.</summary>
    public Term Scalar(double value) => new(B, B.Scalar(value, Type));

    /// <summary>Emits an operator of this term alone.</summary>
    public Term Op(string opType, params ReadOnlySpan<Attr> attributes) => new(B, B.Op(opType, [V], attributes));

    /// <summary>Emits an operator of this term and another.</summary>
    public Term Op(string opType, Value? other, params ReadOnlySpan<Attr> attributes) =>
        new(B, B.Op(opType, [V, other], attributes));

    /// <summary>Emits an operator of this term and two others.</summary>
    public Term Op(string opType, Value? second, Value? third, params ReadOnlySpan<Attr> attributes) =>
        new(B, B.Op(opType, [V, second, third], attributes));

    public Term Exp() => Op("Exp");

    public Term Log() => Op("Log");

    public Term Sqrt() => Op("Sqrt");

    public Term Abs() => Op("Abs");

    public Term Sigmoid() => Op("Sigmoid");

    public Term Tanh() => Op("Tanh");

    public Term Relu() => Op("Relu");

    public Term Cast(ElementType to) => to == Type ? this : Op("Cast", Int("to", (long)to));

    /// <summary>Sums over axes, which are kept as 1 unless stated otherwise. No axes: the term itself.</summary>
    public Term Sum(ReadOnlySpan<long> axes, bool keepDims = true) =>
        axes.IsEmpty ? this : Op("ReduceSum", B.Int64s(axes), Int("keepdims", keepDims ? 1 : 0));

    public Term Mean(ReadOnlySpan<long> axes, bool keepDims = true) =>
        axes.IsEmpty ? this : Op("ReduceMean", B.Int64s(axes), Int("keepdims", keepDims ? 1 : 0));

    public Term Transpose(params ReadOnlySpan<long> perm) => Op("Transpose", Ints("perm", perm));

    public Term Unsqueeze(params ReadOnlySpan<long> axes) => Op("Unsqueeze", B.Int64s(axes));

    public Term Squeeze(params ReadOnlySpan<long> axes) => Op("Squeeze", B.Int64s(axes));

    /// <summary>Reshapes to constant dimensions: 0 copies one, -1 is worked out.</summary>
    public Term Reshape(params ReadOnlySpan<long> dims) => Op("Reshape", B.Int64s(dims));

    /// <summary>Reshapes to the shape of a value.</summary>
    public Term ReshapeTo(Value like)
    {
        if (V.Shape is { } own && like.Shape is { } other && own.SameAs(other))
        {
            return this;
        }

        return like.Shape is { } shape && shape.Dims.Count(d => !d.IsStatic) <= 1
            ? Reshape([.. shape.Dims.Select(d => d.IsStatic ? d.Size : -1)])
            : Op("Reshape", new Term(B, like).ShapeVector());
    }

    /// <summary>Gives the shape as a 1-D int64 tensor: a constant where it is static.</summary>
    public Term ShapeVector() =>
        V.Shape is { IsStatic: true } shape ? new(B, B.Int64s([.. shape.Dims.Select(d => d.Size)])) : Op("Shape");

    /// <summary>Gives one dimension as a 1-D int64 tensor of one element.</summary>
    public Term DimVector(int axis) =>
        V.KnownShape[axis] is { IsStatic: true } dim
            ? new(B, B.Int64s(dim.Size))
            : Op("Shape", Int("start", V.KnownShape.Axis(axis)), Int("end", V.KnownShape.Axis(axis) + 1));

    /// <summary>Gives zeros of this term's shape and type.</summary>
    public Term Zeros() => Filled(0);

    /// <summary>Gives a tensor of this term's shape and type filled with one value.</summary>
    public Term Filled(double value) =>
        new(
            B,
            B.Op("ConstantOfShape", [ShapeVector().V], Tensor("value", GraphBuilder.ScalarTensor(value, Type, [1])))
        );

    /// <summary>Multiplies matrices, with either side transposed in its last two axes.</summary>
    public Term MatMul(Value other, bool transposeThis = false, bool transposeOther = false, double alpha = 1) =>
        !transposeThis && !transposeOther && alpha == 1
            ? Op("MatMul", other)
            : new(
                B,
                B.OpIn(
                    "com.microsoft",
                    "FusedMatMul",
                    [V, other],
                    Int("transA", transposeThis ? 1 : 0),
                    Int("transB", transposeOther ? 1 : 0),
                    Float("alpha", alpha)
                )
            );

    /// <summary>Gives this term where a condition holds, another elsewhere.</summary>
    public Term Where(Value condition, Value otherwise) => new(B, B.Op("Where", [condition, V, otherwise]));

    /// <summary>Gives a boolean term as 1 and 0 of a type.</summary>
    public Term AsNumber(ElementType type) => Op("Cast", Int("to", (long)type));
}

/// <summary>Formulas of several terms.</summary>
internal static class Terms
{
    /// <summary>Joins terms along an axis.</summary>
    public static Term Concat(this GraphBuilder b, IEnumerable<Term> terms, long axis) =>
        new(b, b.Op("Concat", [.. terms.Select(t => t.V)], Int("axis", axis)));
}
