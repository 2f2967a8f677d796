using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Tests.Data;

public sealed class CsvFileTests : IDisposable
{
    private static readonly InputSpec Input = new("x", ElementType.Float, [-1, 2]);
    private static readonly InputSpec Labels = new("labels", ElementType.Int64, [-1]);

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("1.5,2,0\n-3,4e0,1\n")]
    [InlineData("1.5,2,0\r\n-3,4,1")]
    [InlineData("\uFEFFa,b,c\n1.5,2,0\n\n-3, 4 ,1\n\n")]
    [InlineData("labels,a,b\n0,1.5,2\n1.0,-3,4\n")]
    [InlineData("a,label,b\n1.5,0,2\n-3,1,4\n")]
    [InlineData("x_1,labels,other,x_0\n2,0,7,1.5\n4,1,8,-3\n")]
    [InlineData("0,1,label\n1.5,2,0\n-3,4,1\n")]
    [InlineData("1.5;2;0\n-3;4;1\n")]
    public void The_target_is_found_by_name_or_is_the_last_column(string text)
    {
        var data = Dataset.Load(_folder.File("a.csv", text), [Input, Labels]);
        Assert.Equal("Float[2,2]", data["x"].ToString());
        Assert.Equal([1.5f, 2, -3, 4], data["x"].Span<float>());
        Assert.Equal([0L, 1], data["labels"].Span<long>());
    }

    [Fact]
    public void Columns_are_reshaped_to_the_models_fixed_axes()
    {
        var path = _folder.File("a.csv", "1,2,3,4,9\n5,6,7,8,9\n");
        Assert.Equal(
            "Float[2,1,2,2]",
            Dataset.Load(path, [new("x", ElementType.Float, [-1, 1, 2, 2]), Labels])["x"].ToString()
        );
        DatasetTests.Check(
            "MAC0603",
            "the model expects Float[?,3], found [2,4]",
            () => Dataset.Load(path, [new("x", ElementType.Float, [-1, 3]), Labels])
        );
        Assert.Equal("Float[2,5]", Dataset.Load(path, [new("x", ElementType.Float, [-1, 5])])["x"].ToString());
    }

    [Fact]
    public void Several_inputs_are_grouped_by_header()
    {
        var path = _folder.File("a.csv", "b_0,a,b_1,id,y\n1,2,3,77,4\n5,6,7,78,8\n");
        InputSpec[] specs =
        [
            new("a", ElementType.Int64, [-1]),
            new("b", ElementType.Float, [-1, 2]),
            new("target", ElementType.Float, [-1, 1]),
        ];
        var data = Dataset.Load(path, specs);
        Assert.Equal([2L, 6], data["a"].Span<long>());
        Assert.Equal([1f, 3, 5, 7], data["b"].Span<float>());
        Assert.Equal([4f, 8], data["target"].Span<float>());
        DatasetTests.Check(
            "MAC0602",
            "'c' Float[?]. Found: 'a', 'b_0', 'b_1', 'id', 'y'",
            () => Dataset.Load(path, [specs[0], new("c", ElementType.Float, [-1]), specs[2]])
        );
        DatasetTests.Check("MAC0602", "Found: none", () => Dataset.Load(_folder.File("b.csv", "1,2,3\n"), specs));
        DatasetTests.Check(
            "MAC0602",
            "'target'",
            () => Dataset.Load(_folder.File("c.csv", "b_0,a,b_1\n1,2,3\n"), specs)
        );
    }

    [Theory]
    [InlineData("a,b,c\n1,2,0\n\n1,x y,0\n", "line 4, column 2 ('b'): 'x y' is not a number")]
    [InlineData("1,2,0\n1,,0\n", "line 2, column 2: '' is not a number")]
    [InlineData("1.5,NA,0\n", "line 1, column 2: 'NA' is not a number")]
    [InlineData("1,2,0\n1,NaN,0\n", "line 2, column 2: 'NaN' is not a number")]
    [InlineData("1,2,0\n1,1e999,0\n", "line 2, column 2: '1e999' is not a number")]
    [InlineData("1,2,0\n1,2,0.5\n", "line 2, column 3: '0.5' is not an integer")]
    [InlineData("1,2,0\n1,2\n", "line 2 has 2 columns, the first line 3")]
    [InlineData("1,2,0\n1,2,0,4\n", "line 2 has 4 columns, the first line 3")]
    [InlineData("1,2,0\n1,\"2,0\n1,2,0\n", "usable CSV file")]
    [InlineData("", "it is empty")]
    [InlineData("a,b,c\n", "a header but no rows")]
    public void Bad_fields_are_named_by_line_and_column(string text, string error) =>
        DatasetTests.Check("MAC0403", error, () => Dataset.Load(_folder.File("a.csv", text), [Input, Labels]));

    [Fact]
    public void Random_bytes_are_one_clear_line()
    {
        var random = new Random(1);
        for (var i = 0; i < 300; i++)
        {
            var bytes = new byte[random.Next(1, 400)];
            random.NextBytes(bytes);
            var error = Assert.Throws<GraphRewriter.Diagnostics.MacOnnxException>(() =>
                Dataset.Load(_folder.File("a.csv", bytes), [Input, Labels])
            );
            Assert.DoesNotContain(error.Message, char.IsControl);
        }
    }

    [Fact]
    public void Huge_labels_stay_exact()
    {
        var data = Dataset.Load(_folder.File("a.csv", "1,2,9007199254740993\n"), [Input, Labels]);
        Assert.Equal([9007199254740993L], data["labels"].Span<long>());
    }
}
