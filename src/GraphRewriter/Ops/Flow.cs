namespace MacOnnx.GraphRewriter.Ops;

/// <summary>How the elements of an operator's output come from the elements of its data inputs.</summary>
public enum Flow
{
    /// <summary>In no way that the others describe.</summary>
    Mixed,

    /// <summary>Axes move as a whole, or are split, joined or repeated; what lies along one keeps its order.</summary>
    Axes,

    /// <summary>Each output element is an element of an input, and the data do not decide which.</summary>
    Elements,

    /// <summary>Element by element, with broadcasting; linear in each data input but a divisor.</summary>
    Linear,

    /// <summary>Element by element, with broadcasting.</summary>
    Pointwise,

    /// <summary>Each row of the output from the first input's row at the same place.</summary>
    Rows,
}
