using System.Collections.ObjectModel;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.OnDevice;

/// <summary>Values that are disposed together.</summary>
internal sealed class OwnedValues(params IList<OrtValue> values)
    : ReadOnlyCollection<OrtValue>(values),
        IDisposableReadOnlyCollection<OrtValue>
{
    public void Dispose()
    {
        foreach (var value in this)
        {
            value.Dispose();
        }
    }
}
