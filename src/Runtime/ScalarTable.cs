using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.Runtime;

/// <summary>The scalars that a graph reads, each with the formula that gives it.</summary>
internal sealed class ScalarTable
{
    private readonly BufferSet _buffers;
    private readonly (string Buffer, Func<Func<string, double>, double> Compute, bool IsSchedule)[] _scalars;

    /// <summary>Reads the formulas of scalars.</summary>
    /// <param name="manifest">The manifest.</param>
    /// <param name="names">The buffers, of which those that are scalars count.</param>
    /// <param name="buffers">The buffers.</param>
    public ScalarTable(Manifest manifest, IEnumerable<string> names, BufferSet buffers)
    {
        _buffers = buffers;
        var read = names.ToHashSet(StringComparer.Ordinal);
        _scalars =
        [
            .. manifest
                .Buffers.Where(b => b.Role == BufferRole.Scalar && read.Contains(b.Name))
                .Select(b => (b.Name, Formula.Parse(b.Formula!), IsSchedule(b.Formula!))),
        ];
    }

    /// <summary>Gives the buffers that a graph reads.</summary>
    public static IEnumerable<string> ReadBy(Manifest manifest, string file) =>
        manifest.Bindings.Where(b => b.Graph == file && b.Direction == BindingDirection.In).Select(b => b.Buffer);

    /// <summary>Computes the scalars and writes them to their buffers.</summary>
    /// <param name="variable">Gives the value of a name.</param>
    /// <returns>Whether one has changed that does not follow from the step alone.</returns>
    public bool Set(Func<string, double?> variable)
    {
        var hasChanged = false;
        foreach (var (buffer, compute, isSchedule) in _scalars)
        {
            var value = (float)compute(name =>
                variable(name)
                ?? throw new MacOnnxException(
                    "MAC0403",
                    "manifest.json",
                    $"The formula of '{buffer}' reads '{name}', which this version does not know.",
                    "Rewrite the model again."
                )
            );
            var target = _buffers.Floats(buffer);
            hasChanged |= !isSchedule && !target[0].Equals(value);
            target[0] = value;
        }

        return hasChanged;
    }

    /// <summary>Whether a formula reads what a step is: which, and what is updated in it.</summary>
    private static bool IsSchedule(string formula)
    {
        var isSchedule = false;
        _ = Formula.Parse(formula)(name =>
        {
            isSchedule |= name is "update" or "refresh" or "step" or "loss_count";
            return 1;
        });
        return isSchedule;
    }
}
