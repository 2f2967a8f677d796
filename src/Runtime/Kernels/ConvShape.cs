namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// A convolution over two axes (over one: the first has length 1) of X [Batch, Groups * Channels, rows, columns] with W
/// [Groups * Filters, Channels, kernel], giving Y [Batch, Groups * Filters, windows].
/// </summary>
internal readonly record struct ConvShape(
    int Batch,
    int Groups,
    int Channels,
    int Filters,
    WindowAxis Row,
    WindowAxis Column
)
{
    public int Taps => checked((int)(Row.Kernel * Column.Kernel));

    public long XPlane => Row.Size * Column.Size;

    public long YPlane => Row.Outputs * Column.Outputs;

    /// <summary>Gets the number of multiplications.</summary>
    public long Work => checked(Batch * YPlane * Groups * Filters * Channels * Taps);

    /// <summary>Gets whether each channel is a group of its own with one filter.</summary>
    public bool IsDepthwise => Channels == 1 && Filters == 1;

    /// <summary>
    /// Gives the shape, of which X and Y are known. There may be fewer windows than fit: the gradient of a transposed
    /// convolution has positions behind the last.
    /// </summary>
    /// <exception cref="InvalidOperationException">The tensors cannot belong together.</exception>
    public static ConvShape Of(ReadOnlySpan<long> x, ReadOnlySpan<long> y, WindowAttributes windows, int groups)
    {
        var (row, column) = windows.Axes(x, y);
        if (groups < 1 || x[1] % groups != 0 || y[1] % groups != 0)
        {
            throw new InvalidOperationException("The channels are not a multiple of the groups.");
        }

        for (var axis = 0; axis < windows.Rank; axis++)
        {
            if (windows.OutputsOf(axis, x[2 + axis]) < y[2 + axis])
            {
                throw new InvalidOperationException("The windows do not fit the tensors.");
            }
        }

        return new((int)x[0], groups, (int)(x[1] / groups), (int)(y[1] / groups), row, column);
    }

    /// <summary>
    /// Gives an equal convolution: one of single positions does not see the shape of the plane, which may as well be
    /// one row.
    /// </summary>
    public ConvShape Flattened() =>
        Row is { Kernel: 1, Stride: 1, Begin: 0 }
        && Column is { Kernel: 1, Stride: 1, Begin: 0 }
        && XPlane == YPlane
        && XPlane < int.MaxValue
            ? this with
            {
                Row = WindowAxis.One,
                Column = WindowAxis.One with { Size = XPlane, Outputs = XPlane },
            }
            : this;
}
