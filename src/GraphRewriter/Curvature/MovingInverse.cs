using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// A second moment M that a package keeps, and (M + damping I)^-1, which the host computes at every refresh.
/// </summary>
/// <param name="name">What the names of its buffers start with.</param>
/// <param name="size">The rows of M.</param>
internal sealed class MovingInverse(string name, long size)
{
    private string _average = "";
    private string _moment = "";
    private string _inverse = "";

    /// <summary>Adds the buffers of a moment that the curvature graph averages.</summary>
    public void Declare(BufferTable buffers)
    {
        _average = Matrix(buffers, "running_moment", BufferRole.State);
        DeclareInverse(buffers);
    }

    /// <summary>Adds the buffers of a moment that something else computes; gives the moment's.</summary>
    public string DeclareInverse(BufferTable buffers)
    {
        _moment = Matrix(buffers, "moment", BufferRole.State);
        _inverse = Matrix(buffers, "inverse", BufferRole.HostResult);
        return _moment;
    }

    /// <summary>Gives what the host computes.</summary>
    /// <param name="damping">The buffer of the damping.</param>
    /// <param name="pass">What computes the moment from the data; null where the curvature graph does.</param>
    public HostRefresh Refresh(string damping, DataPass? pass = null) => new(_moment, _inverse, damping, pass);

    /// <summary>Emits the moving average; gives the unbiased one in use.</summary>
    public Term Update(BoundGraph g, MovingAverage average, Term batch) => average.Update(g, _average, _moment, batch);

    /// <summary>Reads the inverse.</summary>
    public Term Read(BoundGraph g) => g.Read(_inverse);

    private string Matrix(BufferTable buffers, string suffix, BufferRole role) =>
        buffers.Add($"{name}_{suffix}", role, ElementType.Float, [size, size], BufferPlace.Host);
}
