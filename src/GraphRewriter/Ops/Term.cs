using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>A value in a formula: its operators emit nodes, so that a rule reads like the mathematics.</summary>
public readonly record struct Term
{
    internal Term(GraphBuilder b, Value v) => (B, V) = (b, v);

    /// <summary>Gets the value.</summary>
    public Value V { get; }

    /// <summary>Gets the element type.</summary>
    public ElementType Type => V.Type;

    internal GraphBuilder B { get; }

    /// <summary>Gives the term's value.</summary>
    /// <param name="term">The term.</param>
    public static implicit operator Value(Term term) => term.V;

    /// <summary>Negates a term.</summary>
    /// <param name="a">The term.</param>
    public static Term operator -(Term a) => a.Op("Neg");

    /// <summary>Adds terms, with broadcasting.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator +(Term a, Term b) => a.Op("Add", b);

    /// <summary>Subtracts terms, with broadcasting.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator -(Term a, Term b) => a.Op("Sub", b);

    /// <summary>Multiplies terms element by element, with broadcasting.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator *(Term a, Term b) => a.Op("Mul", b);

    /// <summary>Divides terms element by element, with broadcasting.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator /(Term a, Term b) => a.Op("Div", b);

    /// <summary>Adds a term and a number of its type.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator +(Term a, double b) => a + a.Scalar(b);

    /// <summary>Subtracts a term and a number of its type.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator -(Term a, double b) => a - a.Scalar(b);

    /// <summary>Multiplies a term and a number of its type.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator *(Term a, double b) => a * a.Scalar(b);

    /// <summary>Divides a term and a number of its type.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator /(Term a, double b) => a / a.Scalar(b);

    /// <summary>Adds a number and a term, in the term's type.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator +(double a, Term b) => b.Scalar(a) + b;

    /// <summary>Subtracts a number and a term, in the term's type.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator -(double a, Term b) => b.Scalar(a) - b;

    /// <summary>Multiplies a number and a term, in the term's type.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator *(double a, Term b) => b.Scalar(a) * b;

    /// <summary>Divides a number and a term, in the term's type.</summary>
    /// <param name="a">The left side.</param>
    /// <param name="b">The right side.</param>
    public static Term operator /(double a, Term b) => b.Scalar(a) / b;

    /// <summary>Gives a scalar of this term's type.</summary>
    /// <param name="value">The number.</param>
    public Term Scalar(double value) => new(B, B.Scalar(value, Type));

    /// <summary>Emits an operator of this term alone.</summary>
    /// <param name="opType">The operator, of ai.onnx.</param>
    /// <param name="attributes">Its attributes.</param>
    public Term Op(string opType, params ReadOnlySpan<Attr> attributes) => new(B, B.Op(opType, [V], attributes));

    /// <summary>Emits an operator of this term and another.</summary>
    /// <param name="opType">The operator, of ai.onnx.</param>
    /// <param name="other">The second input; null for one that is left out.</param>
    /// <param name="attributes">Its attributes.</param>
    public Term Op(string opType, Value? other, params ReadOnlySpan<Attr> attributes) =>
        new(B, B.Op(opType, [V, other], attributes));

    /// <summary>Emits an operator of this term and two others.</summary>
    /// <param name="opType">The operator, of ai.onnx.</param>
    /// <param name="second">The second input; null for one that is left out.</param>
    /// <param name="third">The third input.</param>
    /// <param name="attributes">Its attributes.</param>
    public Term Op(string opType, Value? second, Value? third, params ReadOnlySpan<Attr> attributes) =>
        new(B, B.Op(opType, [V, second, third], attributes));

    /// <summary>Gives the exponential of each element.</summary>
    public Term Exp() => Op("Exp");

    /// <summary>Gives the natural logarithm of each element.</summary>
    public Term Log() => Op("Log");

    /// <summary>Gives the square root of each element.</summary>
    public Term Sqrt() => Op("Sqrt");

    /// <summary>Gives the absolute value of each element.</summary>
    public Term Abs() => Op("Abs");

    /// <summary>Gives 1 / (1 + exp(-x)) of each element x.</summary>
    public Term Sigmoid() => Op("Sigmoid");

    /// <summary>Gives the hyperbolic tangent of each element.</summary>
    public Term Tanh() => Op("Tanh");

    /// <summary>Gives max(x, 0) of each element x.</summary>
    public Term Relu() => Op("Relu");

    /// <summary>Gives the term in a type: itself where it has it.</summary>
    /// <param name="to">The type.</param>
    public Term Cast(ElementType to) => to == Type ? this : Op("Cast", Int("to", (long)to));

    /// <summary>Sums over axes, which are kept as 1 unless stated otherwise. No axes: the term itself.</summary>
    /// <param name="axes">The axes.</param>
    /// <param name="keepDims">Whether they are kept.</param>
    public Term Sum(ReadOnlySpan<long> axes, bool keepDims = true) =>
        axes.IsEmpty ? this : Op("ReduceSum", B.Int64s(axes), Int("keepdims", keepDims ? 1 : 0));

    /// <summary>Averages over axes, which are kept as 1 unless stated otherwise. No axes: the term itself.</summary>
    /// <param name="axes">The axes.</param>
    /// <param name="keepDims">Whether they are kept.</param>
    public Term Mean(ReadOnlySpan<long> axes, bool keepDims = true) =>
        axes.IsEmpty ? this : Op("ReduceMean", B.Int64s(axes), Int("keepdims", keepDims ? 1 : 0));

    /// <summary>Permutes the axes.</summary>
    /// <param name="perm">The axes of the term in their new order.</param>
    public Term Transpose(params ReadOnlySpan<long> perm) => Op("Transpose", Ints("perm", perm));

    /// <summary>Adds axes of size 1.</summary>
    /// <param name="axes">Where the result has them.</param>
    public Term Unsqueeze(params ReadOnlySpan<long> axes) => Op("Unsqueeze", B.Int64s(axes));

    /// <summary>Drops axes of size 1.</summary>
    /// <param name="axes">The axes.</param>
    public Term Squeeze(params ReadOnlySpan<long> axes) => Op("Squeeze", B.Int64s(axes));

    /// <summary>Reshapes to constant dimensions: 0 copies one, -1 is worked out.</summary>
    /// <param name="dims">The dimensions.</param>
    public Term Reshape(params ReadOnlySpan<long> dims) => Op("Reshape", B.Int64s(dims));

    /// <summary>Reshapes to the shape of a value.</summary>
    /// <param name="like">The value.</param>
    public Term ReshapeTo(Value like)
    {
        ArgumentNullException.ThrowIfNull(like);
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
    /// <param name="axis">The axis.</param>
    public Term DimVector(int axis) =>
        V.KnownShape[axis] is { IsStatic: true } dim
            ? new(B, B.Int64s(dim.Size))
            : Op("Shape", Int("start", V.KnownShape.Axis(axis)), Int("end", V.KnownShape.Axis(axis) + 1));

    /// <summary>Gives zeros of this term's shape and type.</summary>
    public Term Zeros() => Filled(0);

    /// <summary>Gives a tensor of this term's shape and type filled with one value.</summary>
    /// <param name="value">The number.</param>
    public Term Filled(double value) =>
        new(
            B,
            B.Op("ConstantOfShape", [ShapeVector().V], Tensor("value", GraphBuilder.ScalarTensor(value, Type, [1])))
        );

    /// <summary>Multiplies matrices, with either side transposed in its last two axes.</summary>
    /// <param name="other">The right factor.</param>
    /// <param name="transposeThis">Whether this side is transposed.</param>
    /// <param name="transposeOther">Whether the other side is transposed.</param>
    /// <param name="alpha">What the product is multiplied with.</param>
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
    /// <param name="condition">Where this term is taken.</param>
    /// <param name="otherwise">What is taken elsewhere.</param>
    public Term Where(Value condition, Value otherwise) => new(B, B.Op("Where", [condition, V, otherwise]));

    /// <summary>Gives a boolean term as 1 and 0 of a type.</summary>
    /// <param name="type">The type.</param>
    public Term AsNumber(ElementType type) => Op("Cast", Int("to", (long)type));
}

/// <summary>Formulas of several terms.</summary>
internal static class Terms
{
    /// <summary>Joins terms along an axis.</summary>
    public static Term Concat(this GraphBuilder b, IEnumerable<Term> terms, long axis) =>
        new(b, b.Op("Concat", [.. terms.Select(t => t.V)], Int("axis", axis)));
}
