namespace MacOnnx.GraphRewriter;

/// <summary>What is true of a model while it is rewritten.</summary>
[Flags]
internal enum Facts
{
    /// <summary>Nothing yet.</summary>
    None = 0,

    /// <summary>The training graph holds the model's forward pass.</summary>
    Forward = 1,

    /// <summary>Types and shapes are known, and padding is explicit.</summary>
    Shapes = 2,

    /// <summary>The training graph ends in the loss.</summary>
    Loss = 4,

    /// <summary>What is done with every parameter is decided.</summary>
    Plan = 8,

    /// <summary>Parameters and running statistics are inputs of the training graph.</summary>
    ParameterInputs = 16,

    /// <summary>The training graph computes the gradients.</summary>
    Gradients = 32,

    /// <summary>The training graph computes the statistics that curvature blocks ask for.</summary>
    Statistics = 64,

    /// <summary>Only operators of the stock runtime, and functions of them, are left in the training graph.</summary>
    Lowered = 128,

    /// <summary>The training graph's outputs are bound to buffers.</summary>
    Bound = 256,

    /// <summary>The graphs that update curvature and parameters are built.</summary>
    Updates = 512,

    /// <summary>The graph of evaluation is built.</summary>
    Evaluation = 1024,
}

/// <summary>One step from a model to the graphs that train it.</summary>
/// <param name="Name">The name, for messages and dumps.</param>
/// <param name="Requires">What must be true before.</param>
/// <param name="Ensures">What is true from then on.</param>
/// <param name="Run">Does it.</param>
/// <param name="Shows">The graph that it made or changed.</param>
internal sealed record Pass(
    string Name,
    Facts Requires,
    Facts Ensures,
    Action<RewriteContext> Run,
    Func<RewriteContext, Ir.Graph?> Shows
);
