using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Optimizer;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime;

/// <summary>
/// A session whose inputs and outputs are bound to buffers once; a run allocates nothing that grows with the model.
/// </summary>
internal sealed class BoundSession : IDisposable
{
    private readonly InferenceSession _session;
    private readonly OrtIoBinding _binding;
    private readonly RunOptions _run = new();
    private readonly HashSet<string> _inputs;

    /// <summary>
    /// Loads a model and binds every input and output that the store has a buffer for; "X_new" is bound to the buffer
    /// X.
    /// </summary>
    public BoundSession(ReadOnlyMemory<byte> model, SessionOptions options, StateStore store)
    {
        _session = new InferenceSession(model.ToArray(), options);
        _binding = _session.CreateIoBinding();
        _inputs = [.. _session.InputNames];
        foreach (var name in _session.InputNames.Where(store.Values.ContainsKey))
        {
            _binding.BindInput(name, store[name]);
        }

        foreach (var name in _session.OutputNames)
        {
            var target = name.EndsWith(TrainingNames.NewSuffix, StringComparison.Ordinal)
                ? name[..^TrainingNames.NewSuffix.Length]
                : name;
            if (store.Values.TryGetValue(target, out var value))
            {
                _binding.BindOutput(name, value);
            }
        }
    }

    /// <summary>Whether the graph has an input of that name.</summary>
    public bool Reads(string name) => _inputs.Contains(name);

    /// <summary>Binds an output.</summary>
    public void BindOutput(string name, OrtValue value) => _binding.BindOutput(name, value);

    /// <summary>Binds an input of this run.</summary>
    public void Bind(string name, OrtValue value) => _binding.BindInput(name, value);

    /// <summary>Runs the graph.</summary>
    /// <exception cref="MacOnnxException">ONNX Runtime refuses the inputs, or an operator fails.</exception>
    public void Run()
    {
        try
        {
            _session.RunWithBinding(_run, _binding);
        }
        catch (OnnxRuntimeException e)
        {
            throw new MacOnnxException(
                "MAC0501",
                "training step",
                $"ONNX Runtime stopped: {e.Message.ReplaceLineEndings(" ")}",
                "Check the shapes and values of the data.",
                e
            );
        }
    }

    public void Dispose()
    {
        _run.Dispose();
        _binding.Dispose();
        _session.Dispose();
    }
}
