using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>Emits calls of operators that the model defines itself, each call by a function of its own.</summary>
/// <remarks>
/// ONNX Runtime inlines a function unless a kernel is registered under the operator's name: the model runs anywhere,
/// and a runtime that has
/// a faster kernel needs no other model. An operator's functions differ from call to call (in shapes, in the best
/// spelling), so each is an
/// overload of it.
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
        ReadOnlySpan<AttributeProto> attributes,
        Func<GraphBuilder, Value[]> body
    )
    {
        var (nodes, results, captured) = b.Body(body);
        var call = b.Node(opType, Domain, [.. inputs], results.Length, attributes);
        var function = new FunctionProto
        {
            Name = opType,
            Domain = Domain,
            Overload = call.Name,
        };
        function.Input.AddRange(inputs.Select(v => v.Name));
        function.Output.AddRange(results.Select(r => r.Name));
        function.Attribute.AddRange(call.Attributes.All.Select(a => a.Name));
        foreach (var outer in captured.Except(inputs))
        {
            var constant = new NodeProto { OpType = "Constant" };
            constant.Output.Add(outer.Name);
            constant.Attribute.Add(
                Attr.Tensor(
                    "value",
                    outer.Constant
                        ?? throw new InvalidOperationException(
                            $"{opType} reads '{outer.Name}', which is none of its inputs."
                        )
                )
            );
            function.Node.Add(constant);
        }

        function.Node.AddRange(nodes.Select(ModelWriter.ToProto));
        foreach (var domain in nodes.Select(n => n.Domain).Append("").Distinct())
        {
            function.OpsetImport.Add(
                new OperatorSetIdProto { Domain = domain, Version = domain.Length == 0 ? b.Graph.Opsets[""] : 1 }
            );
        }

        call.Function = function;
        foreach (var (output, result) in call.Outputs.Zip(results))
        {
            (output.Type, output.Shape) = (result.Type, result.Shape);
        }

        return [.. call.Outputs];
    }
}
