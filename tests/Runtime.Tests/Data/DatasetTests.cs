using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Tests.Data;

public sealed class DatasetTests : IDisposable
{
    private static readonly InputSpec Labels = new("labels", ElementType.Int64, [-1]);

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Loads_an_npz_by_name_and_ignores_other_arrays()
    {
        NpzFile.Write(
            _folder.File("a.npz"),
            [
                new("labels", Tensor.From<byte>([2], [3, 1])),
                new("note", Tensor.From<float>([], [0])),
                new("x", Tensor.From<double>([2, 2], [1, 2, 3, 4])),
            ]
        );
        var data = Dataset.Load(_folder.File("a.npz"), [Input(-1, 2), Labels]);
        Assert.Equal(2, data.Samples);
        Assert.Equal([1f, 2, 3, 4], data["x"].Span<float>());
        Assert.Equal([3L, 1], data["labels"].Span<long>());
    }

    [Fact]
    public void Names_all_missing_arrays_and_what_is_there()
    {
        NpzFile.Write(
            _folder.File("a.npz"),
            [new("X", Tensor.From<float>([1], [0])), new("y", Tensor.From<float>([1], [0]))]
        );
        Check(
            "MAC0602",
            "Missing arrays: 'x' Float[?,2], 'labels' Int64[?]. Found: 'X', 'y'.",
            () => Dataset.Load(_folder.File("a.npz"), [Input(-1, 2), Labels])
        );
        Check(
            "MAC0602",
            "Missing arrays: 'x' Float[?,2], 'labels' Int64[?]. Found: none.",
            () => Dataset.Load(Sub("empty"), [Input(-1, 2), Labels])
        );
        Check("MAC0602", "'labels'", () => new Dataset("memory", [Labels], new Dictionary<string, Tensor>()));
    }

    [Fact]
    public void Loads_a_folder_of_npy_and_idx_files()
    {
        var folder = Sub("arrays");
        NpyFile.Write(Path.Combine(folder, "x.npy"), Tensor.From<float>([2, 2], [1, 2, 3, 4]));
        File.WriteAllBytes(Path.Combine(folder, "labels.idx"), [0, 0, 8, 1, 0, 0, 0, 2, 5, 6]);
        var data = Dataset.Load(folder, [Input(-1, 2), Labels]);
        Assert.Equal([1f, 2, 3, 4], data["x"].Span<float>());
        Assert.Equal([5L, 6], data["labels"].Span<long>());
    }

    [Fact]
    public void An_array_name_never_leads_out_of_the_folder()
    {
        NpyFile.Write(_folder.File("secret.npy"), Tensor.From<float>([1], [1]));
        Check("MAC0602", "secret", () => Dataset.Load(Sub("inner"), [new("../secret", ElementType.Float, [-1])]));
    }

    [Fact]
    public void Loads_images_and_labels_as_mnist_ships_by_split()
    {
        var folder = Sub("mnist");
        File.WriteAllBytes(
            Path.Combine(folder, "train-images-idx3-ubyte"),
            [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 255, 51, 102]
        );
        File.WriteAllBytes(Path.Combine(folder, "train-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 2, 9, 4]);
        File.WriteAllBytes(
            Path.Combine(folder, "t10k-images.idx3-ubyte"),
            [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 255, 0]
        );
        File.WriteAllBytes(Path.Combine(folder, "t10k-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 3]);
        var train = Dataset.Load(folder, [new("image", ElementType.Float, [-1, 1, 1, 2]), Labels]);
        Assert.Equal("Float[2,1,1,2]", train["image"].ToString());
        Assert.Equal([0f, 1, 51 / 255f, 102 / 255f], train["image"].Span<float>());
        Assert.Equal([9L, 4], train["labels"].Span<long>());
        var test = Dataset.Load(folder, [new("image", ElementType.Float, [-1, 2]), Labels], DatasetSplit.Test);
        Assert.Equal("Float[1,2]", test["image"].ToString());
        Assert.Equal([3L], test["labels"].Span<long>());

        // A model that expects bytes gets them as they are.
        Assert.Equal<byte>(
            [0, 255, 51, 102],
            Dataset.Load(folder, [new("image", ElementType.UInt8, [-1, 1, 2])])["image"].Span<byte>()
        );

        File.Delete(Path.Combine(folder, "train-labels-idx1-ubyte"));
        Check(
            "MAC0602",
            "train-labels-idx1-ubyte",
            () => Dataset.Load(folder, [new("image", ElementType.Float, [-1, 2]), Labels])
        );
    }

    [Fact]
    public void Unknown_kinds_and_missing_paths_are_clear()
    {
        Check("MAC0601", "no such file", () => Dataset.Load(_folder.File("missing"), [Labels]));
        Check("MAC0601", "not a supported kind of data", () => Dataset.Load(_folder.File("a.txt", "x"), [Labels]));
        Check("MAC0402", "cannot be read", () => Dataset.Load(_folder.File("missing.npz"), [Labels]));
    }

    [Theory]
    [InlineData(new long[] { 3, 28, 28 }, new long[] { -1, 1, 28, 28 }, "3,1,28,28")]
    [InlineData(new long[] { 3, 28, 28 }, new long[] { -1, 784 }, "3,784")]
    [InlineData(new long[] { 3, 784 }, new long[] { -1, 1, 28, 28 }, "3,1,28,28")]
    [InlineData(new long[] { 3, 1 }, new long[] { -1 }, "3")]
    [InlineData(new long[] { 3 }, new long[] { -1, 1 }, "3,1")]
    [InlineData(new long[] { 3, 5, 7 }, new long[] { -1, 1, -1, -1 }, "3,1,5,7")]
    [InlineData(new long[] { 3, 5, 7 }, new long[] { -1, -1, -1 }, "3,5,7")]
    [InlineData(new long[] { 3, 5, 7 }, new long[] { 8, 5, 7 }, "3,5,7")]
    [InlineData(new long[] { }, new long[] { }, "")]
    [InlineData(new long[] { 1 }, new long[] { }, "")]
    [InlineData(new long[] { 3, 27, 28 }, new long[] { -1, 784 }, null)]
    [InlineData(new long[] { 3, 5, 7 }, new long[] { -1, 2, -1, -1 }, null)]
    [InlineData(new long[] { 3, 5, 7 }, new long[] { -1, -1 }, null)]
    [InlineData(new long[] { 3, 5 }, new long[] { -1, 5, -1 }, null)]
    [InlineData(new long[] { 2 }, new long[] { }, null)]
    public void Shapes_fit_where_only_axes_of_one_or_fixed_trailing_axes_differ(
        long[] found,
        long[] wanted,
        string? result
    )
    {
        Dataset Load() =>
            new(
                "memory",
                [new("x", ElementType.Float, wanted)],
                Arrays(("x", Tensor.From<float>(found, new float[Tensor.CountOf(found)])))
            );
        if (result is null)
        {
            Check("MAC0603", $"found [{string.Join(',', found)}]", Load);
        }
        else
        {
            Assert.Equal(result, string.Join(',', Load()["x"].Dims));
        }
    }

    [Fact]
    public void Types_convert_where_nothing_is_lost()
    {
        Assert.Equal([1f, -2.5f], Converted<float>(Tensor.From<double>([2], [1, -2.5])));
        Assert.Equal([1f, -2.5f], Converted<float>(Tensor.From<Half>([2], [(Half)1, (Half)(-2.5)])));
        Assert.Equal([3f, -4f], Converted<float>(Tensor.From<int>([2], [3, -4])));
        Assert.Equal([1f, 0f], Converted<float>(Tensor.From<bool>([2], [true, false])));
        Assert.Equal([float.NaN], Converted<float>(Tensor.From<double>([1], [double.NaN])));
        Assert.Equal([255L], Converted<long>(Tensor.From<byte>([1], [255])));
        Assert.Equal([-7L], Converted<long>(Tensor.From<short>([1], [-7])));
        Assert.Equal([5], Converted<int>(Tensor.From<long>([1], [5])));
        Assert.Equal([true, false], Converted<bool>(Tensor.From<long>([2], [1, 0])));
        Check("MAC0604", "Float, but the model expects Int64", () => Converted<long>(Tensor.From<float>([1], [1])));
        Check(
            "MAC0604",
            "18446744073709551615 does not fit the model's Int64",
            () => Converted<long>(Tensor.From<ulong>([1], [ulong.MaxValue]))
        );
        Check("MAC0604", "-1 does not fit", () => Converted<byte>(Tensor.From<long>([1], [-1])));
        Check(
            "MAC0604",
            "1E+300 does not fit the model's Float",
            () => Converted<float>(Tensor.From<double>([1], [1e300]))
        );
        Check("MAC0604", "expects Bool", () => Converted<bool>(Tensor.From<long>([1], [2])));
    }

    [Fact]
    public void Labels_out_of_range_name_the_first_row_and_value()
    {
        var labels = Tensor.From<long>([3, 2], [0, 1, -100, 2, 3, 0]);
        var data = new Dataset("memory", [new("labels", ElementType.Int64, [-1, 2])], Arrays(("labels", labels)));
        data.CheckLabels("labels", 4, -100);
        Check(
            "MAC0606",
            "Row 1 has the label -100, but the model has the classes 0 to 3.",
            () => data.CheckLabels("labels", 4)
        );
        Check("MAC0606", "Row 2 has the label 3", () => data.CheckLabels("labels", 3, -100));
        Assert.Throws<ArgumentException>(() => data.CheckLabels("other", 3));
    }

    [Fact]
    public void A_split_is_a_partition_that_the_seed_decides_and_keeps_rows_together()
    {
        var x = Tensor.From<float>([100, 1], [.. Enumerable.Range(0, 100).Select(i => (float)i)]);
        var pairs = Tensor.From<long>([200], [.. Enumerable.Range(0, 200).Select(i => (long)i / 2)]);
        var table = Tensor.From<float>([2], [5, 6]);
        InputSpec[] specs =
        [
            Input(-1, 1),
            new("table", ElementType.Float, [2]),
            new("labels", ElementType.Int64, [-1]),
        ];
        var data = new Dataset("memory", specs, Arrays(("x", x), ("labels", pairs), ("table", table)));
        var (train, validation) = data.Split(0.2, 7);
        Assert.Equal((80, 20), (train.Samples, validation.Samples));
        Assert.Equal(
            Enumerable.Range(0, 100).Select(i => (float)i),
            train["x"].Span<float>().ToArray().Concat(validation["x"].Span<float>().ToArray()).Order()
        );
        foreach (var part in new[] { train, validation })
        {
            var rows = part["x"].Span<float>().ToArray();
            Assert.Equal(rows.Order(), rows);
            Assert.Equal(rows.SelectMany(r => new[] { (long)r, (long)r }), part["labels"].Span<long>().ToArray());
            Assert.Equal([5f, 6], part["table"].Span<float>());
        }

        Assert.Equal(validation["x"].Data.ToArray(), data.Split(0.2, 7).Validation["x"].Data.ToArray());
        Assert.NotEqual(validation["x"].Data.ToArray(), data.Split(0.2, 8).Validation["x"].Data.ToArray());
        Assert.Equal(1, data.Split(1e-9, 1).Validation.Samples);
        Assert.Equal(1, data.Split(1 - 1e-9, 1).Train.Samples);
        foreach (var part in new[] { 0, 1, -1, double.NaN })
        {
            Check("MAC0607", "cannot be split", () => data.Split(part, 1));
        }
    }

    internal static Dictionary<string, Tensor> Arrays(params (string Name, Tensor Tensor)[] arrays) =>
        arrays.ToDictionary(a => a.Name, a => a.Tensor);

    internal static void Check(string id, string text, Func<object> action)
    {
        var error = Assert.Throws<MacOnnxException>(action);
        Assert.Equal(id, error.Diagnostic.Id);
        Assert.Contains(text, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
    }

    private static void Check(string id, string text, Action action) =>
        Check(
            id,
            text,
            () =>
            {
                action();
                return id;
            }
        );

    private static InputSpec Input(params long[] dims) => new("x", ElementType.Float, dims);

    private static T[] Converted<T>(Tensor tensor)
        where T : unmanaged =>
        new Dataset("memory", [new("x", ElementTypes.Of<T>(), [-1])], Arrays(("x", tensor)))["x"].Span<T>().ToArray();

    private string Sub(string name) => Directory.CreateDirectory(_folder.File(name)).FullName;
}
