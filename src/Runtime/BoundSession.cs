using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime;

/// <summary>A graph of a package whose inputs and outputs are bound to buffers once.</summary>
internal sealed class BoundSession : IDisposable
{
    private readonly InferenceSession _session;
    private readonly OrtIoBinding _binding;
    private readonly RunOptions _run = new();
    private readonly Binding[] _bindings;
    private readonly BufferSet _buffers;
    private readonly string[] _data;

    /// <summary>Loads a graph, checks its bindings and binds it.</summary>
    /// <param name="package">The package.</param>
    /// <param name="file">The graph.</param>
    /// <param name="options">The session's options.</param>
    /// <param name="buffers">The buffers.</param>
    /// <exception cref="MacOnnxException">
    /// ONNX Runtime cannot load the graph (MAC0502), or its inputs and outputs are not those that the manifest binds
    /// (MAC0403).
    /// </exception>
    public BoundSession(TrainingPackage package, string file, SessionOptions options, BufferSet buffers)
    {
        try
        {
            _session = new InferenceSession(package.Model(file).ToArray(), options);
        }
        catch (OnnxRuntimeException e)
        {
            throw new MacOnnxException(
                "MAC0502",
                $"{package.Manifest.Model}: {file}",
                $"ONNX Runtime cannot load the graph: {e.Message.ReplaceLineEndings(" ")}",
                "Report it with the model.",
                e
            );
        }

        _buffers = buffers;
        _bindings = [.. package.Manifest.Bindings.Where(b => b.Graph == file)];
        _binding = _session.CreateIoBinding();
        try
        {
            BindingCheck.Check(package.Manifest, file, _bindings, _session);
        }
        catch
        {
            Dispose();
            throw;
        }

        _data = [.. _session.InputNames.Except(_bindings.Where(IsInput).Select(b => b.Value))];
        foreach (var binding in _bindings)
        {
            Bind(binding, binding.Buffer);
        }
    }

    /// <summary>Binds the inputs for data that the graph reads.</summary>
    /// <param name="names">The names of all inputs for data.</param>
    /// <param name="values">Their values.</param>
    public void Feed(IReadOnlyList<string> names, IReadOnlyList<OrtValue> values)
    {
        for (var i = 0; i < names.Count; i++)
        {
            if (_data.Contains(names[i]))
            {
                _binding.BindInput(names[i], values[i]);
            }
        }
    }

    /// <summary>Binds outputs to other buffers.</summary>
    /// <param name="buffer">Gives the buffer to write instead of the one that the manifest binds.</param>
    public void Redirect(Func<string, string> buffer)
    {
        foreach (var binding in _bindings.Where(b => !IsInput(b)))
        {
            Bind(binding, buffer(binding.Buffer));
        }
    }

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

    private static bool IsInput(Binding binding) => binding.Direction == BindingDirection.In;

    private void Bind(Binding binding, string buffer)
    {
        if (IsInput(binding))
        {
            _binding.BindInput(binding.Value, _buffers[buffer]);
        }
        else
        {
            _binding.BindOutput(binding.Value, _buffers[buffer]);
        }
    }
}
