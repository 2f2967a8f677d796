namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// Checks what passes must keep: topological order, one producer a value, unique names, known outputs.
/// </summary>
internal static class GraphVerifier
{
    /// <summary>Gives the first fault of a graph, as the end of a sentence; null where there is none.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="hasShapes">Whether types of all values must be known.</param>
    public static string? Find(Graph graph, bool hasShapes)
    {
        var (known, names) = (new HashSet<Value>(), new HashSet<string>(StringComparer.Ordinal));
        foreach (var input in graph.Inputs)
        {
            if (input.Producer is not null || input.Constant is not null)
            {
                return $"the input '{input.Name}' is also computed";
            }

            if (!known.Add(input) || !names.Add(input.Name))
            {
                return $"the input '{input.Name}' appears twice";
            }
        }

        foreach (var node in graph.Nodes)
        {
            foreach (var value in node.Reads)
            {
                if (value.Constant is not null && known.Add(value) && !names.Add(value.Name))
                {
                    return $"two values are called '{value.Name}'";
                }

                if (!known.Contains(value))
                {
                    return $"{node} reads '{value.Name}', which nothing before it computes";
                }
            }

            foreach (var output in node.Outputs.Where(o => o.Name.Length > 0))
            {
                if (output.Producer != node || output.Constant is not null)
                {
                    return $"'{output.Name}' does not know its producer, {node}";
                }

                if (!known.Add(output) || !names.Add(output.Name))
                {
                    return $"two values are called '{output.Name}'";
                }

                if (hasShapes && output.Type == ElementType.Undefined && IsRead(output))
                {
                    return $"the type of '{output.Name}' is not known";
                }
            }
        }

        var lost = graph.Outputs.FirstOrDefault(o => o.Constant is null && !known.Contains(o));
        return lost is null ? null : $"nothing computes the output '{lost.Name}'";
    }

    private static bool IsRead(Value value) => value.Uses.Count + value.OutputOf.Count > 0;
}
