using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Emits calls of operators that the model defines itself, each call by a function of its own.</summary>
/// <remarks>
/// ONNX Runtime inlines a function unless a kernel is registered under the operator's name: the model runs anywhere,
/// and a runtime that has a faster kernel needs no other model. An operator's functions differ from call to call (in
/// shapes, in the best spelling), so each is an overload of it. Unlike a subgraph, a function reads nothing from
/// outside: its inputs bear the names of the call's, and it has its own copies of other constants.
/// </remarks>
internal static class FunctionCall
{
    /// <summary>The domain of the operators.</summary>
    public const string Domain = "maconnx";

    /// <summary>Appends a call of an operator.</summary>
    /// <param name="b">The builder, whose origin and prefix the call takes.</param>
    /// <param name="opType">The operator.</param>
    /// <param name="inputs">What the function reads, in the operator's order; no two of them the same. Other constants
    /// it may read, they become part of it.</param>
    /// <param name="attributes">What a kernel must know beside the inputs.</param>
    /// <param name="body">Emits the function.</param>
    /// <returns>The outputs, of the shapes that the results of <paramref name="body"/> have.</returns>
    public static Value[] Append(
        GraphBuilder b,
        string opType,
        IReadOnlyList<Value> inputs,
        ReadOnlySpan<Attr> attributes,
        Func<GraphBuilder, Value[]> body
    )
    {
        var function = b.Body(opType, body);
        var own = inputs.ToDictionary(v => v, v => function.AddValue(v.Name));
        function.Inputs.AddRange(inputs.Select(v => own[v]));
        foreach (var outer in function.Captured().Except(inputs).ToArray())
        {
            var constant =
                outer.Constant
                ?? throw new InvalidOperationException($"{opType} reads '{outer.Name}', which is none of its inputs.");
            own[outer] = function.AddConstant(outer.Name, constant);
        }

        function.Rebind(own);
        if (
            FunctionSignatures.All.GetValueOrDefault(opType) is { } signature
            && (signature.Inputs.Length, signature.Outputs.Length) != (inputs.Count, function.Outputs.Count)
        )
        {
            throw new InvalidOperationException(
                $"{signature} is called with {inputs.Count} inputs and {function.Outputs.Count} outputs."
            );
        }

        var call = b.Node(opType, Domain, [.. inputs], function.Outputs.Count, attributes);
        call.Function = function;
        foreach (var (output, result) in call.Outputs.Zip(function.Outputs))
        {
            (output.Type, output.Shape) = (result.Type, result.Shape);
        }

        return [.. call.Outputs];
    }
}
