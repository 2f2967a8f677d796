using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Tests.Data;

/// <summary>
/// One stream of tokens becomes the samples of a language model. Here a token's id is its place in the stream.
/// </summary>
public sealed class TokenDataTests : IDisposable
{
    private const int Context = 10;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(20, 1)]
    [InlineData(29, 1)]
    [InlineData(30, 2)]
    [InlineData(107, 9)]
    public void Windows_follow_each_other_and_labels_are_one_token_later(int tokens, int samples)
    {
        using var loader = new BatchLoader(Stream(tokens), 4, shuffle: false, seed: 1);
        var windows = Epoch(loader, 3);
        Assert.Equal(Enumerable.Range(0, samples).Select(i => (long)i * Context), windows);
    }

    [Fact]
    public void Windows_are_views_of_one_stream()
    {
        var data = Stream(1000);
        Assert.True(data["ids"].Data.Span.Overlaps(data["labels"].Data.Span, out var offset));
        Assert.Equal(sizeof(long), offset);
        Assert.True(data.ForEpoch(1, 2)["ids"].Data.Span.Overlaps(data["ids"].Data.Span));
    }

    [Fact]
    public void A_shuffled_epoch_cuts_at_a_place_that_seed_and_epoch_decide()
    {
        using var loader = new BatchLoader(Stream(1000), 8, shuffle: true, seed: 5);
        var shifts = new HashSet<long>();
        for (var epoch = 0; epoch < 200; epoch++)
        {
            var windows = Epoch(loader, epoch);
            var shift = windows.Min();
            Assert.Equal(Enumerable.Range(0, 99).Select(i => shift + ((long)i * Context)), windows.Order());
            shifts.Add(shift);

            // Going on from the middle in another process gives the same batches.
            if (epoch % 50 == 0)
            {
                using var again = new BatchLoader(Stream(1000), 8, shuffle: true, seed: 5);
                Assert.Equal(windows[40..], Epoch(again, epoch, firstBatch: 5));
            }
        }

        // All places occur: one is missing from 200 draws with a chance under 1e-8, and the seed is fixed.
        Assert.Equal(Enumerable.Range(0, Context).Select(s => (long)s), shifts.Order());
        using var other = new BatchLoader(Stream(1000), 8, shuffle: true, seed: 6);
        Assert.NotEqual(Epoch(loader, 0), Epoch(other, 0));
    }

    [Fact]
    public void The_end_is_split_off_and_nothing_is_in_both_parts()
    {
        var (train, validation) = Stream(1000).Split(0.2, seed: 3);
        Assert.Equal((79, 19), (train.Samples, validation.Samples));
        for (var epoch = 0; epoch < 50; epoch++)
        {
            Assert.True(train.ForEpoch(3, epoch)["labels"].Span<long>()[^1] < 800);
        }

        Assert.Equal(800, validation["ids"].Span<long>()[0]);
        DatasetTests.Check(
            "MAC0609",
            "19 tokens are too few for a sample of 10",
            () => Stream(1000).Split(0.019, seed: 3)
        );
        DatasetTests.Check("MAC0607", "cannot be split", () => Stream(1000).Split(1, seed: 3));
    }

    [Fact]
    public void All_arrays_can_be_passed_whole()
    {
        using var loader = new BatchLoader(Stream(100), 0, shuffle: true, seed: 1);
        Assert.Equal(Enumerable.Range(0, 9).Select(i => (long)i * Context), Epoch(loader, 7));
    }

    [Fact]
    public void Every_token_must_be_a_class()
    {
        // The last token is in no window of the first epoch, but may be in one of a later epoch.
        var data = Stream(1000);
        data.CheckLabels("labels", 1000);
        DatasetTests.Check(
            "MAC0606",
            "Row 999 has the label 999, but the model has the classes 0 to 998",
            () =>
            {
                data.CheckLabels("labels", 999);
                return data;
            }
        );
    }

    [Fact]
    public void Files_of_ids_and_of_text_are_read()
    {
        NpyFile.Write(_folder.File("a.npy"), Tensor.From<int>([3], [70000, 0, 2]));
        Assert.Equal([70000, 0, 2], TokenFile.Read(_folder.File("a.npy")).Span<int>());
        Assert.Equal<ushort>([1, 65535], TokenFile.Read(_folder.File("a.bin", [1, 0, 255, 255])).Span<ushort>());
        Assert.Equal<byte>([65, 195, 164, 10], TokenFile.Read(_folder.File("a.txt", "Aä\n")).Span<byte>());
        DatasetTests.Check(
            "MAC0403",
            "3 bytes are not a whole number of ids",
            () => TokenFile.Read(_folder.File("b.bin", [1, 2, 3]))
        );
        DatasetTests.Check("MAC0402", "missing.txt", () => TokenFile.Read(_folder.File("missing.txt")));
        Assert.Equal(
            [true, true, true, false, false],
            new[] { "a.npy", "b.BIN", "c.txt", "d.npz", _folder.Path }.Select(TokenFile.IsTokenFile)
        );
    }

    [Fact]
    public void Ids_take_the_models_types()
    {
        var data = Dataset.FromTokens(
            "memory",
            Specs(ElementType.Int32, ElementType.Int64, -1),
            Tensor.From<byte>([5], [9, 8, 7, 6, 5]),
            2
        );
        Assert.Equal([9, 8], data["ids"].Span<int>());
        Assert.Equal([8L, 7], data["labels"].Span<long>());
        DatasetTests.Check(
            "MAC0604",
            "Float, but the model expects Int64",
            () => Tokens(Tensor.From<float>([4], new float[4]), 2)
        );
        DatasetTests.Check("MAC0603", "found [4,5]", () => Tokens(Tensor.From<long>([4, 5], new long[20]), 2));
    }

    [Fact]
    public void The_context_is_given_or_fixed_by_the_model()
    {
        var ids = Tensor.From<byte>([100], new byte[100]);
        Assert.Equal(
            [9L, 10],
            Dataset.FromTokens("memory", Specs(ElementType.Int64, ElementType.Int64, 10), ids, null)["ids"].Dims
        );
        DatasetTests.Check("MAC0609", "open", () => Tokens(ids, null));
        DatasetTests.Check("MAC0609", "samples of -1 tokens", () => Tokens(ids, -1));
        DatasetTests.Check(
            "MAC0609",
            "The model fixes them to 10",
            () => Dataset.FromTokens("memory", Specs(ElementType.Int64, ElementType.Int64, 10), ids, 8)
        );
        DatasetTests.Check(
            "MAC0609",
            "100 tokens are too few for a sample of 9223372036854775807",
            () => Tokens(ids, long.MaxValue)
        );
        DatasetTests.Check(
            "MAC0609",
            "not tokens",
            () =>
                Dataset.FromTokens(
                    "memory",
                    [new("x", ElementType.Float, [-1, 8]), new("labels", ElementType.Int64, [-1])],
                    ids,
                    8
                )
        );
        DatasetTests.Check(
            "MAC0609",
            "not tokens",
            () => Dataset.FromTokens("memory", [new("x", ElementType.Int64, [-1, 8])], ids, 8)
        );
    }

    private static Dataset Stream(int tokens) =>
        Tokens(Tensor.From<ushort>([tokens], [.. Enumerable.Range(0, tokens).Select(i => (ushort)i)]), Context);

    private static Dataset Tokens(Tensor ids, long? context) =>
        Dataset.FromTokens("memory", Specs(ElementType.Int64, ElementType.Int64, -1), ids, context);

    private static InputSpec[] Specs(ElementType ids, ElementType labels, long context) =>
        [new("ids", ids, [-1, context]), new("labels", labels, [-1, context])];

    /// <summary>Gives the first token of every window of an epoch, having checked the others.</summary>
    private static long[] Epoch(BatchLoader loader, long epoch, long firstBatch = 0)
    {
        var first = new List<long>();
        foreach (var batch in loader.Epoch(epoch, firstBatch))
        {
            var ids = batch.Values[0].GetTensorDataAsSpan<long>();
            var labels = batch.Values[1].GetTensorDataAsSpan<long>();
            Assert.Equal([batch.Samples, Context], batch.Values[0].GetTensorTypeAndShape().Shape);
            for (var i = 0; i < ids.Length; i++)
            {
                Assert.Equal((ids[i - (i % Context)] + (i % Context), ids[i] + 1), (ids[i], labels[i]));
            }

            first.AddRange(ids.ToArray().Where((_, i) => i % Context == 0));
        }

        return [.. first];
    }
}
