#pragma warning disable xUnit1051 // No test here runs long enough to be cancelled.
using System.Buffers;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Tests.Data;

public sealed class BatchLoaderTests
{
    private static readonly InputSpec Input = new("x", ElementType.Float, [-1, 2]);
    private static readonly InputSpec Labels = new("labels", ElementType.Int64, [-1]);

    [Fact]
    public void Unshuffled_batches_are_the_rows_in_order()
    {
        using var loader = new BatchLoader(Samples(10), 4, shuffle: false, seed: 1);
        Assert.Equal((3, 10), (loader.BatchesPerEpoch, loader.SamplesPerEpoch));
        for (var epoch = 0; epoch < 2; epoch++)
        {
            var seen = new List<string>();
            foreach (var batch in loader.Epoch(epoch))
            {
                seen.Add($"{batch.Index}:{batch.Samples}:{string.Join(',', Rows(batch))}");
                Assert.Equal([batch.Samples, 2], batch.Values[0].GetTensorTypeAndShape().Shape);
                Assert.Equal(
                    Rows(batch).Select(r => (float)r),
                    batch.Values[0].GetTensorDataAsSpan<float>().ToArray().Where((_, i) => i % 2 == 0)
                );
            }

            Assert.Equal(["0:4:0,1,2,3", "1:4:4,5,6,7", "2:2:8,9"], seen);
        }
    }

    [Fact]
    public void An_incomplete_batch_can_be_left_out()
    {
        using var loader = new BatchLoader(Samples(10), 4, shuffle: false, seed: 1, dropIncomplete: true);
        Assert.Equal((2, 8), (loader.BatchesPerEpoch, loader.SamplesPerEpoch));
        Assert.Equal([0, 1, 2, 3, 4, 5, 6, 7], AllRows(loader, 0));
    }

    [Fact]
    public void A_batch_larger_than_the_data_is_all_of_them()
    {
        using var loader = new BatchLoader(Samples(3), 100, shuffle: false, seed: 1);
        Assert.Equal([0, 1, 2], AllRows(loader, 0));
        DatasetTests.Check(
            "MAC0608",
            "3 samples make no batch of 100",
            () => new BatchLoader(Samples(3), 100, false, 1, dropIncomplete: true)
        );
        DatasetTests.Check("MAC0605", "gives no samples", () => new BatchLoader(Samples(0), 4, false, 1));
        DatasetTests.Check("MAC0608", "0 samples make no batch", () => new BatchLoader(Samples(0), 0, false, 1));
    }

    [Fact]
    public void Every_epoch_has_an_order_of_its_own_that_the_seed_decides()
    {
        using var loader = new BatchLoader(Samples(50), 8, shuffle: true, seed: 3);
        var first = AllRows(loader, 0);
        var second = AllRows(loader, 1);
        Assert.Equal(Enumerable.Range(0, 50).Select(i => (long)i), first.Order());
        Assert.Equal(Enumerable.Range(0, 50).Select(i => (long)i), second.Order());
        Assert.NotEqual(first, second);
        Assert.Equal(first, AllRows(loader, 0));

        using var same = new BatchLoader(Samples(50), 8, shuffle: true, seed: 3);
        Assert.Equal(second, AllRows(same, 1));
        using var other = new BatchLoader(Samples(50), 8, shuffle: true, seed: 4);
        Assert.NotEqual(first, AllRows(other, 0));
    }

    [Fact]
    public void The_orders_never_change()
    {
        // Checkpoints rely on these orders. The generator's outputs for seed 1234567 are the reference ones of
        // splitmix64.
        var random = new SplitMix64(1234567);
        Assert.Equal(
            [6457827717110365317, 3203168211198807973, 9817491932198370423],
            new[] { random.Next(), random.Next(), random.Next() }
        );
        var order = new int[8];
        SplitMix64.Shuffle(order, 3, 0);
        Assert.Equal("0,2,1,5,3,4,7,6", string.Join(',', order));
    }

    [Fact]
    public void Orders_are_uniform()
    {
        // 6 orders of 3, 6,000 draws: each count has standard deviation 29; 6 of them are allowed.
        var counts = new Dictionary<string, int>();
        var order = new int[3];
        for (var epoch = 0; epoch < 6000; epoch++)
        {
            SplitMix64.Shuffle(order, 1, epoch);
            counts[string.Join(',', order)] = counts.GetValueOrDefault(string.Join(',', order)) + 1;
        }

        Assert.Equal(6, counts.Count);
        Assert.All(counts.Values, c => Assert.InRange(c, 826, 1174));
    }

    [Fact]
    public void An_epoch_goes_on_from_any_batch()
    {
        using var loader = new BatchLoader(Samples(50), 8, shuffle: true, seed: 3);
        var rows = AllRows(loader, 5);
        for (var first = 0; first <= loader.BatchesPerEpoch; first++)
        {
            using var resumed = new BatchLoader(Samples(50), 8, shuffle: true, seed: 3);
            Assert.Equal(rows.Skip(8 * first), AllRows(resumed, 5, first));
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => loader.Epoch(0, 8));
        Assert.Throws<ArgumentOutOfRangeException>(() => loader.Epoch(-1));
    }

    [Fact]
    public void Arrays_with_k_times_the_rows_give_k_rows_a_sample()
    {
        var tokens = Tensor.From<long>([12, 2], [.. Enumerable.Range(0, 24).Select(i => (long)i)]);
        var data = new Dataset(
            "memory",
            [Input, new("tokens", ElementType.Int64, [-1, 2])],
            DatasetTests.Arrays(("x", X(4)), ("tokens", tokens))
        );
        using var loader = new BatchLoader(data, 3, shuffle: true, seed: 2);
        foreach (var batch in loader.Epoch(0))
        {
            Assert.Equal([3 * batch.Samples, 2], batch.Values[1].GetTensorTypeAndShape().Shape);
            var samples = batch.Values[0].GetTensorDataAsSpan<float>().ToArray().Where((_, i) => i % 2 == 0);
            Assert.Equal(
                samples.SelectMany(s => Enumerable.Range(0, 6).Select(k => ((long)s * 6) + k)),
                batch.Values[1].GetTensorDataAsSpan<long>().ToArray()
            );
        }
    }

    [Fact]
    public void Scalars_and_fixed_tables_are_whole_and_copied_once()
    {
        InputSpec[] specs =
        [
            Input,
            new("rate", ElementType.Float, []),
            new("table", ElementType.Float, [2, 2]),
            Labels,
        ];
        var data = new Dataset(
            "memory",
            specs,
            DatasetTests.Arrays(
                ("x", X(4)),
                ("rate", Tensor.From<float>([], [0.5f])),
                ("table", Tensor.From<float>([2, 2], [1, 2, 3, 4])),
                ("labels", Tensor.From<long>([4], [0, 1, 2, 3]))
            )
        );
        using var loader = new BatchLoader(data, 2, shuffle: true, seed: 2);
        var seen = loader.Epoch(0).Select(b => (b.Values[1], b.Values[2])).ToList();
        Assert.Single(seen.Distinct());
        Assert.Equal([0.5f], seen[0].Item1.GetTensorDataAsSpan<float>());
        Assert.Empty(seen[0].Item1.GetTensorTypeAndShape().Shape);
        Assert.Equal([1f, 2, 3, 4], seen[0].Item2.GetTensorDataAsSpan<float>());
    }

    [Fact]
    public void A_table_of_other_rows_than_the_model_fixes_is_refused()
    {
        InputSpec[] specs = [Input, new("table", ElementType.Float, [2, 2])];
        DatasetTests.Check(
            "MAC0603",
            "the model expects Float[2,2], found [4,2]",
            () => new Dataset("memory", specs, DatasetTests.Arrays(("x", X(4)), ("table", X(4))))
        );
    }

    [Fact]
    public void Rows_that_belong_to_no_sample_are_refused_by_name()
    {
        var data = new Dataset(
            "memory",
            [Input, Labels],
            DatasetTests.Arrays(("x", X(4)), ("labels", Tensor.From<long>([6], new long[6])))
        );
        DatasetTests.Check(
            "MAC0605",
            "array 'labels': 6 rows are not a multiple of the 4 samples of 'x'",
            () => new BatchLoader(data, 2, false, 1)
        );
        DatasetTests.Check("MAC0605", "array 'labels'", () => data.Split(0.5, 1));
        using var all = new BatchLoader(data, 0, false, 1);
    }

    [Fact]
    public void All_passes_every_array_as_it_is_and_copies_it_once()
    {
        // The batch axis is the second one: x is [6, 4, 3], labels [4].
        InputSpec[] specs = [new("x", ElementType.Float, [6, -1, 3]), Labels];
        var data = new Dataset(
            "memory",
            specs,
            DatasetTests.Arrays(
                ("x", Tensor.From<float>([6, 4, 3], new float[72])),
                ("labels", Tensor.From<long>([4], [3, 1, 2, 0]))
            )
        );
        using var loader = new BatchLoader(data, 0, shuffle: true, seed: 1);
        Assert.Equal((1, 6), (loader.BatchesPerEpoch, loader.SamplesPerEpoch));
        var first = Assert.Single(loader.Epoch(0));
        var second = Assert.Single(loader.Epoch(1));
        Assert.Equal([6, 4, 3], first.Values[0].GetTensorTypeAndShape().Shape);
        Assert.Equal([3L, 1, 2, 0], first.Values[1].GetTensorDataAsSpan<long>());
        Assert.Equal(first.Values, second.Values);
        Assert.Empty(loader.Epoch(2, 1));
    }

    [Fact]
    public void A_fixed_batch_size_is_kept()
    {
        InputSpec[] specs =
        [
            new("x", ElementType.Float, [4, 2]),
            new("table", ElementType.Float, [3]),
            new("labels", ElementType.Int64, [4]),
        ];
        var data = new Dataset(
            "memory",
            specs,
            DatasetTests.Arrays(
                ("x", X(10)),
                ("table", Tensor.From<float>([3], [1, 2, 3])),
                ("labels", Tensor.From<long>([10], [.. Enumerable.Range(0, 10)]))
            )
        );
        using var loader = new BatchLoader(data, 4, shuffle: false, seed: 1);
        Assert.Equal((2, 8), (loader.BatchesPerEpoch, loader.SamplesPerEpoch));
        Assert.All(loader.Epoch(0), b => Assert.Equal([1f, 2, 3], b.Values[1].GetTensorDataAsSpan<float>()));
        DatasetTests.Check(
            "MAC0603",
            "array 'x': Wrong data shape: the model expects Float[4,2], a batch has [5,2]",
            () => new BatchLoader(data, 5, false, 1)
        );
        DatasetTests.Check("MAC0603", "a batch has [10,2]", () => new BatchLoader(data, 0, false, 1));
    }

    [Fact]
    public void A_table_as_long_as_the_data_is_whole_where_the_batch_size_is_fixed()
    {
        InputSpec[] specs = [new("x", ElementType.Float, [4, 2]), new("table", ElementType.Float, [8])];
        var data = new Dataset(
            "memory",
            specs,
            DatasetTests.Arrays(("x", X(8)), ("table", Tensor.From<float>([8], new float[8])))
        );
        using var loader = new BatchLoader(data, 4, shuffle: false, seed: 1);
        Assert.All(loader.Epoch(0), b => Assert.Equal([8], b.Values[1].GetTensorTypeAndShape().Shape));
    }

    [Theory]
    [InlineData(ElementType.Bool)]
    [InlineData(ElementType.Float16)]
    [InlineData(ElementType.BFloat16)]
    [InlineData(ElementType.UInt8)]
    [InlineData(ElementType.Double)]
    public void Every_type_reaches_the_runtime(ElementType type)
    {
        var bytes = Enumerable.Range(0, 3 * type.Size()).Select(i => (byte)(i % 2)).ToArray();
        using var loader = new BatchLoader(
            new Dataset("memory", [new("x", type, [-1])], DatasetTests.Arrays(("x", new Tensor(type, [3], bytes)))),
            3,
            false,
            1
        );
        var value = Assert.Single(loader.Epoch(0)).Values[0];
        Assert.Equal((int)type, (int)value.GetTensorTypeAndShape().ElementDataType);
        Assert.Equal(bytes, value.GetTensorMutableRawData());
    }

    [Fact]
    public void The_batch_in_use_stays_while_the_next_is_gathered()
    {
        using var loader = new BatchLoader(Samples(64), 4, shuffle: true, seed: 1);
        foreach (var batch in loader.Epoch(0))
        {
            var rows = Rows(batch);
            Thread.Sleep(5); // Far longer than gathering 4 rows takes.
            Assert.Equal(rows, Rows(batch));
        }
    }

    [Fact]
    public void Leaving_early_cancelling_and_disposing_end_at_once()
    {
        var loader = new BatchLoader(Samples(100), 4, shuffle: true, seed: 1);
        var rows = AllRows(loader, 0);
        for (var i = 0; i < 50; i++)
        {
            Assert.Equal(rows.Take(4), Rows(loader.Epoch(0).First()));
        }

        using var cancel = new CancellationTokenSource();
        var seen = 0;
        Assert.Throws<OperationCanceledException>(() =>
        {
            foreach (var batch in loader.Epoch(0, 0, cancel.Token))
            {
                if (++seen == 3)
                {
                    cancel.Cancel();
                }
            }
        });
        Assert.Equal(3, seen);
        Assert.Equal(rows, AllRows(loader, 0));

        using var abandoned = loader.Epoch(0).GetEnumerator();
        Assert.True(abandoned.MoveNext());
        Assert.Equal(rows, AllRows(loader, 0));
        Assert.Throws<InvalidOperationException>(() => abandoned.MoveNext());

        using var current = loader.Epoch(0).GetEnumerator();
        Assert.True(current.MoveNext());
        loader.Dispose();
        loader.Dispose();
        Assert.Throws<ObjectDisposedException>(() => current.MoveNext());
        Assert.Throws<ObjectDisposedException>(() => loader.Epoch(0));
    }

    [Fact]
    public void A_failure_in_the_background_reaches_the_caller_and_the_loader_goes_on()
    {
        using var memory = new FailingMemory(8 * 8);
        var data = new Dataset(
            "memory",
            [Input],
            DatasetTests.Arrays(("x", new Tensor(ElementType.Float, [8, 2], memory.Memory)))
        );
        using var loader = new BatchLoader(data, 2, shuffle: false, seed: 1);
        memory.ReadsLeft = 1;
        using var batches = loader.Epoch(0).GetEnumerator();
        Assert.True(batches.MoveNext());
        Assert.Equal("the disk is gone", Assert.Throws<InvalidOperationException>(() => batches.MoveNext()).Message);
        memory.ReadsLeft = int.MaxValue;
        Assert.Equal(4, loader.Epoch(0).Count());
    }

    private static Tensor X(int samples) =>
        Tensor.From<float>([samples, 2], [.. Enumerable.Range(0, samples * 2).Select(i => (float)(i / 2))]);

    internal static Dataset Samples(int count) =>
        new(
            "memory",
            [Input, Labels],
            DatasetTests.Arrays(
                ("x", X(count)),
                ("labels", Tensor.From<long>([count], [.. Enumerable.Range(0, count)]))
            )
        );

    private static long[] Rows(Batch batch) => batch.Values[1].GetTensorDataAsSpan<long>().ToArray();

    private static List<long> AllRows(BatchLoader loader, long epoch, long first = 0) =>
        [.. loader.Epoch(epoch, first).SelectMany(Rows)];

    /// <summary>Memory that can be read a number of times.</summary>
    private sealed class FailingMemory(int length) : MemoryManager<byte>
    {
        private readonly byte[] _bytes = new byte[length];

        public int ReadsLeft { get; set; } = int.MaxValue;

        public override Memory<byte> Memory => CreateMemory(length);

        public override Span<byte> GetSpan() =>
            ReadsLeft-- > 0 ? _bytes : throw new InvalidOperationException("the disk is gone");

        public override MemoryHandle Pin(int elementIndex = 0) => throw new NotSupportedException();

        public override void Unpin() => throw new NotSupportedException();

        protected override void Dispose(bool disposing) { }
    }
}
