using System.Globalization;
using System.Text;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>
/// Writes graphs as text, one line a value: for people who look at what passes do, and for golden files.
/// </summary>
internal static class GraphText
{
    private const int LongestValues = 8;

    /// <summary>Gives the text: inputs, constants, nodes with attributes and subgraphs, outputs.</summary>
    public static string Of(Graph graph)
    {
        var text = new StringBuilder();
        foreach (var input in graph.Inputs)
        {
            text.Append(CultureInfo.InvariantCulture, $"input  {Typed(input)}\n");
        }

        foreach (var constant in graph.Constants())
        {
            text.Append(CultureInfo.InvariantCulture, $"const  {Typed(constant)}{Elements(constant.Constant!)}\n");
        }

        foreach (var node in graph.Nodes)
        {
            Append(text, node, "");
        }

        foreach (var output in graph.Outputs)
        {
            text.Append(CultureInfo.InvariantCulture, $"output {Typed(output)}\n");
        }

        return text.ToString();
    }

    private static void Append(StringBuilder text, Node node, string indent)
    {
        var outputs = string.Join(", ", node.Outputs.Select(Typed));
        var inputs = string.Join(", ", node.Inputs.Select(i => i?.Name ?? "-"));
        text.Append(CultureInfo.InvariantCulture, $"{indent}{outputs} = {node.QualifiedOp}({inputs})");
        foreach (var attribute in node.Attributes.All.Where(a => a.Value is not Graph))
        {
            var elements = attribute.Value is Tensor tensor ? Elements(tensor) : "";
            text.Append(CultureInfo.InvariantCulture, $" {attribute}{elements}");
        }

        text.Append('\n');
        var bodies = node.Attributes.All.Where(a => a.Value is Graph).Select(a => (a.Name, (Graph)a.Value));
        foreach (var (name, body) in node.Function is { } function ? bodies.Append(("function", function)) : bodies)
        {
            text.Append(
                CultureInfo.InvariantCulture,
                $"{indent}  {name} -> {string.Join(", ", body.Outputs.Select(Typed))}\n"
            );
            foreach (var inner in body.Nodes)
            {
                Append(text, inner, indent + "    ");
            }
        }
    }

    private static string Typed(Value value) => $"{value.Name}:{value.Type}{value.Shape}";

    private static string Elements(Tensor tensor)
    {
        if (tensor.ElementCount > LongestValues)
        {
            return "";
        }

        var numbers = tensor.Type switch
        {
            _ when tensor.Type.IsFloatingPoint() => tensor
                .ToDouble()
                .Select(v => v.ToString("R", CultureInfo.InvariantCulture)),
            ElementType.Int64 or ElementType.Int32 => tensor
                .ToInt64()
                .Select(v => v.ToString(CultureInfo.InvariantCulture)),
            _ => tensor.Data.ToArray().Select(v => v.ToString(CultureInfo.InvariantCulture)),
        };
        return $" = {string.Join(' ', numbers)}";
    }
}
