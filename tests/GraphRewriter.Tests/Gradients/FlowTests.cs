using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>
/// Holds what the rows say of the flow of elements: one element of an input is moved, and what changes is looked at.
/// </summary>
public class FlowTests
{
    private const double Step = 0.01;

    public static TheoryData<string> Cases =>
        [
            .. GradientCases
                .All.Where(c => c.Value.Outputs[0] == true && RuleOf(c.Value).Flow != Flow.Mixed)
                .Select(c => c.Key),
        ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Elements_flow_as_the_row_says(string name)
    {
        var row = GradientCases.All[name];
        var (flow, values) = (RuleOf(row).Flow, GradientCheck.Values(row));
        using var session = GradientCheck.Open(row, false, "y0");
        double[] Run(int input, int element, double step)
        {
            var moved = values.ToArray();
            var numbers = values[input]!.ToDouble();
            numbers[element] += step;
            moved[input] = CaseInput.Numbers(values[input]!.Dims.AsSpan(), numbers, row.Type);
            return GradientCheck.Evaluate(session, row, moved)[^1].ToDouble();
        }

        var output = GradientCheck.Evaluate(session, row, values)[^1];
        var outDims = output.Dims.ToArray();
        var isFloat = row.Type == ElementType.Float || output.Type == ElementType.Float;
        foreach (var input in GradientCheck.Variables(row).Where(i => i == 0 || flow != Flow.Rows))
        {
            var inDims = values[input]!.Dims.ToArray();
            var count = (int)values[input]!.ElementCount;
            foreach (var element in new[] { 0, count / 2, count - 1 }.Distinct())
            {
                var (at, once, twice) = (
                    Run(input, element, 0),
                    Run(input, element, Step),
                    Run(input, element, 2 * Step)
                );
                foreach (var y in Enumerable.Range(0, at.Length).Where(i => once[i] != at[i]))
                {
                    Assert.True(
                        IsWhereItMay(flow, Position(y, outDims), Position(element, inDims), inDims, row),
                        $"Element {element} of input {input} reaches element {y}."
                    );

                    // Sums of two numbers near 1 are exact to 2^-52, or 2^-23; a difference of two has twice the error.
                    var rounding = (isFloat ? 1e-6 : 1e-14) * (1 + Math.Abs(at[y]));
                    if (flow is Flow.Axes or Flow.Elements)
                    {
                        Assert.Equal(at[y] + Step, once[y], rounding);
                    }
                    else if (flow is Flow.Linear && !(row.Op == "Div" && input == 1))
                    {
                        Assert.Equal(2 * (once[y] - at[y]), twice[y] - at[y], 4 * rounding);
                    }
                }
            }
        }
    }

    private static OpRule RuleOf(GradientCase row) => OpTable.All[(row.Domain, row.Op)];

    private static bool IsWhereItMay(Flow flow, long[] output, long[] input, long[] dims, GradientCase row)
    {
        if (flow is Flow.Axes or Flow.Elements)
        {
            return true;
        }

        var axis = new Attributes(row.Attributes).Int("axis", -1);
        var rows = axis < 0 ? axis + dims.Length : axis;
        return Enumerable
            .Range(0, dims.Length)
            .All(a =>
                (flow is Flow.Rows && a >= rows) || dims[a] == 1 || output[a + output.Length - dims.Length] == input[a]
            );
    }

    private static long[] Position(long index, long[] dims)
    {
        var position = new long[dims.Length];
        for (var a = dims.Length - 1; a >= 0; a--)
        {
            (index, position[a]) = Math.DivRem(index, dims[a]);
        }

        return position;
    }
}
