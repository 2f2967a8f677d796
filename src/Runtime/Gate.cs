using System.Runtime.CompilerServices;

namespace MacOnnx.Runtime;

/// <summary>
/// Lets one call at a time into an object that owns native memory, and none after its end. A second call, from another
/// thread or from within the first, would read and write what the first one is using.
/// </summary>
/// <param name="owner">The object.</param>
internal sealed class Gate(object owner)
{
    /// <summary>In place of a call's name: the gate is closed for good.</summary>
    private const string Closed = "";

    private string? _running;

    /// <summary>Enters until the result is disposed.</summary>
    /// <param name="call">The member that is called.</param>
    /// <exception cref="InvalidOperationException">Another call is running.</exception>
    /// <exception cref="ObjectDisposedException">The gate is closed.</exception>
    public Pass Enter([CallerMemberName] string call = "")
    {
        var running = Take(call);
        ObjectDisposedException.ThrowIf(running == Closed, owner);
        return running is null ? new(this) : throw Busy(call, running);
    }

    /// <summary>Closes the gate.</summary>
    /// <returns>False where it was closed before.</returns>
    /// <exception cref="InvalidOperationException">A call is running.</exception>
    public bool Close([CallerMemberName] string call = "")
    {
        var running = Take(Closed);
        return running is null or Closed ? running is null : throw Busy(call, running);
    }

    /// <summary>Takes the gate if it is free; gives what it was taken by.</summary>
    private string? Take(string call) => Interlocked.CompareExchange(ref _running, call, null);

    private InvalidOperationException Busy(string call, string running) =>
        new(
            $"{owner.GetType().Name}.{call} was called while {running} was running: it takes one call at a time. "
                + "Use it from one thread, or lock around its calls."
        );

    /// <summary>The right to be inside.</summary>
    public readonly ref struct Pass(Gate gate)
    {
        public void Dispose() => Volatile.Write(ref gate._running, null);
    }
}
