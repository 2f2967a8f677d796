using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Curvature;

/// <summary>Attention in spellings that the exported models do not have, and what only looks like it.</summary>
public class AttentionFinderTests : AttentionGraph
{
    /// <summary>
    /// The fused projection's units in any order and head layout: the units of q, k and v follow from the arithmetic
    /// alone.
    /// </summary>
    [Theory]
    [InlineData("3hd", "qkv", "[0:12]", "[12:24]", "[24:36]")]
    [InlineData("3hd", "vqk", "[12:24]", "[24:36]", "[0:12]")]
    [InlineData("h3d", "qkv", "[0:4][12:16][24:28]", "[4:8][16:20][28:32]", "[8:12][20:24][32:36]")]
    [InlineData(
        "hd3",
        "kqv",
        "[1:2][4:5][7:8][10:11][13:14][16:17][19:20][22:23][25:26][28:29][31:32][34:35]",
        null,
        null
    )]
    public void FusedProjection(string layout, string order, string q, string? k, string? v)
    {
        var x = Input("x", Batch, Tokens, Width);
        var y = Dense(x, "qkv", 3 * Width);
        long[] dims = layout switch
        {
            "3hd" => [Batch, Tokens, 3, Heads, Size],
            "h3d" => [Batch, Tokens, Heads, 3, Size],
            _ => [Batch, Tokens, Heads, Size, 3],
        };
        var axis = layout.IndexOf('3', StringComparison.Ordinal) + 2;
        var split = y.Reshape(dims);
        Term Part(char name) =>
            split
                .Op("Gather", B.Int64(order.IndexOf(name, StringComparison.Ordinal)), Int("axis", axis))
                .Transpose(0, 2, 1, 3);
        var scores = Part('q').MatMul(Part('k'), transposeOther: true) * 0.5;
        Finish(scores.Op("Softmax", Int("axis", -1)).Op("MatMul", Part('v')));
        var found = Single();
        Assert.Equal(Heads, found.Heads);
        Assert.Null(found.Mask);
        Assert.Equal($"qkv{q}", Show(found.Query));
        Assert.Equal($"qkv{k ?? Show(found.Key)[3..]}", Show(found.Key));
        Assert.Equal($"qkv{v ?? Show(found.Value)[3..]}", Show(found.Value));
    }

    [Theory]
    [InlineData("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", false, -1)]
    [InlineData("bkhd,bqhd->bhqk", "bkhd,bhqk->bqhd", true, -1)]
    [InlineData("bqhd,bkhd->bhkq", "bhkq,bkhd->bqhd", false, -2)]
    public void Einsum(string scores, string sum, bool keysFirst, int axis)
    {
        var x = Input("x", Batch, Tokens, Width);
        Term Split(string name) => Dense(x, name, Heads * Size).Reshape(Batch, Tokens, Heads, Size);
        var (q, k, v) = (Split("q"), Split("k"), Split("v"));
        var p = new Term(B, B.Op("Einsum", keysFirst ? [k.V, q.V] : [q.V, k.V], Text("equation", scores))).Op(
            "Softmax",
            Int("axis", axis)
        );
        Finish(new Term(B, B.Op("Einsum", keysFirst ? [v.V, p.V] : [p.V, v.V], Text("equation", sum))));
        var found = Single();
        Assert.Equal((Heads, "q", "k", "v"), (found.Heads, Show(found.Query), Show(found.Key), Show(found.Value)));
        Assert.NotNull(found.Tokens!.SampleAxes);
    }

    /// <summary>
    /// One pointwise convolution gives queries, keys and values of every pixel, or of every place of a sequence, as in
    /// CoAtNet and in the U-Nets of diffusion models; channels lie before pixels. An empty equation stands for a
    /// product with the values on the left, v p'.
    /// </summary>
    [Theory]
    [InlineData("bhdi,bhdj->bhij", "bhij,bhdj->bhdi", 2)]
    [InlineData("bhdi,bhdj->bhij", "bhij,bhdj->bhid", 2)]
    [InlineData("bhdi,bhdj->bhij", "bhij,bhdj->bhdi", 1)]
    [InlineData("bhdi,bhdj->bijh", "bijh,bhdj->bihd", 2, 2)]
    [InlineData("", "", 2)]
    public void PointwiseConvolution(string scores, string sum, int spatial, int axis = -1)
    {
        var x = Input("x", spatial == 2 ? [Batch, Width, 3, 2] : [Batch, Width, 6]);
        var parts = B.Node(
            "Split",
            "",
            [Pointwise(x, "qkv", 3 * Width, spatial), B.Int64s(Width, Width, Width)],
            3,
            Int("axis", 1)
        ).Outputs;
        Term Part(int i) => new Term(B, parts[i]).Reshape(Batch, Heads, Size, 6);
        var (q, k, v) = (Part(0), Part(1), Part(2));
        if (scores.Length > 0)
        {
            var p = new Term(B, B.Op("Einsum", [q.V, k.V], Text("equation", scores))).Op("Softmax", Int("axis", axis));
            Finish(new Term(B, B.Op("Einsum", [p.V, v.V], Text("equation", sum))));
        }
        else
        {
            var p = (q.Transpose(0, 1, 3, 2).Op("MatMul", k) * 0.5).Op("Softmax", Int("axis", -1));
            Finish(v.Op("MatMul", p.Transpose(0, 1, 3, 2)));
        }

        var found = Single();
        Assert.Equal(
            (Heads, "qkv[0:12]", "qkv[12:24]", "qkv[24:36]"),
            (found.Heads, Show(found.Query), Show(found.Key), Show(found.Value))
        );
        Assert.NotNull(found.Tokens!.SampleAxes);
    }

    /// <summary>A convolution that sees several positions, or leaves some out, is no projection of tokens.</summary>
    [Theory]
    [InlineData(3, 1)]
    [InlineData(1, 2)]
    public void OtherConvolutionsAreNoProjections(int kernel, int stride)
    {
        var x = Input("x", Batch, Width, 4, 4);
        Term Part(string name) =>
            new Term(
                B,
                B.Op(
                    "Conv",
                    [x, Parameter(name, Width, Width, kernel, kernel)],
                    Ints("strides", stride, stride),
                    Ints("pads", [.. Enumerable.Repeat((kernel - 1) / 2L, 4)])
                )
            ).Reshape(Batch, Heads, Size, 16 / stride / stride);
        var p = Part("q").Transpose(0, 1, 3, 2).Op("MatMul", Part("k")).Op("Softmax", Int("axis", -1));
        Finish(p.Op("MatMul", Part("v").Transpose(0, 1, 3, 2)));
        var (found, misses) = Find();
        Assert.Empty(found);
        Assert.Contains("it comes through Conv", Assert.Single(misses).Reason, StringComparison.Ordinal);
    }

    /// <summary>
    /// nn.MultiheadAttention slices its packed weight where queries and keys come from different inputs.
    /// </summary>
    [Fact]
    public void SlicedPackedWeight()
    {
        var (target, source) = (Input("target", Batch, Tokens, Width), Input("source", Batch, Tokens + 2, Width));
        var packed = Parameter("packed", 3 * Width, Width);
        var parts = B.Node("Split", "", [packed, B.Int64s(Width, 2 * Width)], 2, Int("axis", 0)).Outputs;
        var q = new Term(B, target)
            .Op("MatMul", new Term(B, parts[0]).Transpose(1, 0))
            .Reshape(Batch, Tokens, Heads, Size)
            .Transpose(0, 2, 1, 3);
        var both = new Term(B, source)
            .Op("MatMul", new Term(B, parts[1]).Transpose(1, 0))
            .Reshape(Batch, Tokens + 2, 2, Heads, Size);
        Term Half(int i) => both.Op("Gather", B.Int64(i), Int("axis", 2)).Transpose(0, 2, 1, 3);
        Finish(q.MatMul(Half(0), transposeOther: true).Op("Softmax", Int("axis", -1)).Op("MatMul", Half(1)));
        var found = Single();
        Assert.Equal(
            (Heads, "packed[0:12]", "packed[12:24]", "packed[24:36]"),
            (found.Heads, Show(found.Query), Show(found.Key), Show(found.Value))
        );
    }

    /// <summary>
    /// Several query heads to one head of keys and values, scaled queries and keys, tokens first, dropout spelled as a
    /// product.
    /// </summary>
    [Fact]
    public void MultiQueryTokensFirst()
    {
        var x = Input("x", Tokens, Batch, Width);
        var q = Dense(x, "q", Heads * Size).Reshape(Tokens, Batch, Heads, Size).Transpose(1, 2, 0, 3) * 0.7;
        Term One(string name) => Dense(x, name, Size).Transpose(1, 0, 2).Unsqueeze(1);
        var p = q.MatMul(One("k") * 0.7, transposeOther: true).Op("Softmax", Int("axis", -1));
        Finish((p * new Term(B, Input("keep", Batch, Heads, Tokens, Tokens))).Op("MatMul", One("v")));
        var found = Single();
        Assert.Equal((Heads, "q", "k", "v"), (found.Heads, Show(found.Query), Show(found.Key), Show(found.Value)));
        Assert.Equal((p.V, 3, Batch), (found.Tokens!.Probabilities, found.Tokens.KeyAxis, (int)found.Tokens.Inner!));
    }

    /// <summary>
    /// Interleaved rotary embeddings build each half of the queries from both halves of the projection.
    /// </summary>
    [Fact]
    public void InterleavedRotary()
    {
        var x = Input("x", Batch, Tokens, Width);
        Term Rotated(string name)
        {
            var pairs = Dense(x, name, Heads * Size).Reshape(Batch, Tokens, Heads, Size / 2, 2);
            Term Half(int i) => pairs.Op("Gather", B.Int64(i), Int("axis", 4));
            Term Table(string part) => new(B, Parameter($"{part}_{Size}", Tokens, 1, Size / 2));
            var (cos, sin) = (Table("cos"), Table("sin"));
            var turned = new[] { (Half(0) * cos) - (Half(1) * sin), (Half(0) * sin) + (Half(1) * cos) };
            return new Term(B, B.Op("Concat", [.. turned.Select(t => t.Unsqueeze(-1).V)], Int("axis", -1)))
                .Reshape(Batch, Tokens, Heads, Size)
                .Transpose(0, 2, 1, 3);
        }

        var v = Dense(x, "v", Heads * Size).Reshape(Batch, Tokens, Heads, Size).Transpose(0, 2, 1, 3);
        Finish(Rotated("q").MatMul(Rotated("k"), transposeOther: true).Op("Softmax", Int("axis", -1)).Op("MatMul", v));
        var found = Single();
        Assert.Equal((Heads, "q", "k", "v"), (found.Heads, Show(found.Query), Show(found.Key), Show(found.Value)));
        Assert.Equal(["cos_4", "sin_4"], found.Tables.Select(t => t.Name).Order());
    }

    [Theory]
    [InlineData("relu", "its values come from no dense layer: it comes through Relu")]
    [InlineData("learned queries", "its scores are not a product of queries and keys")]
    [InlineData("input values", "its values come from no dense layer: 'other' is computed by no layer")]
    [InlineData("two projections", "combines several projections")]
    public void NearMissesSayWhereTheMatchStopped(string what, string reason)
    {
        var x = Input("x", Batch, Tokens, Width);
        var v = what switch
        {
            "relu" => Dense(x, "v", Size).Relu(),
            "input values" => new Term(B, Input("other", Batch, Tokens, Size)),
            "two projections" => Dense(x, "v", Size) + Dense(x, "w", Size),
            _ => Dense(x, "v", Size),
        };
        var scores =
            what == "learned queries"
                ? new Term(B, x).Op("MatMul", Parameter("queries", Width, Tokens)).Transpose(0, 2, 1)
                : Dense(x, "q", Size).MatMul(Dense(x, "k", Size), transposeOther: true);
        Finish(scores.Op("Softmax", Int("axis", -1)).Op("MatMul", v));
        var (found, misses) = Find();
        Assert.Empty(found);
        Assert.Contains(reason, Assert.Single(misses).Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void OtherSoftmaxesAreSilent()
    {
        var x = Input("x", Batch, Tokens, Width);
        Finish(Dense(x, "gate", Width).Op("Softmax", Int("axis", -1)) * Dense(x, "y", Width));
        var (found, misses) = Find();
        Assert.Empty(found);
        Assert.Empty(misses);
    }

    [Fact]
    public void PartOfTheTokensKeepsThePlainMean()
    {
        var x = Input("x", Batch, Tokens, Width);
        Term Late(string name) =>
            new(B, B.Op("Slice", [Dense(x, name, Size).V, B.Int64s(1), B.Int64s(Tokens), B.Int64s(1)]));
        Finish(
            Dense(x, "q", Size)
                .MatMul(Late("k"), transposeOther: true)
                .Op("Softmax", Int("axis", -1))
                .Op("MatMul", Late("v"))
        );
        var found = Single();
        Assert.Null(found.Tokens);
        Assert.Contains("only some of the rows", found.NoTokens, StringComparison.Ordinal);
    }

    private static string Show(Projection projection) => projection.Weight.Name + projection.Report().Show();

    private void Finish(Term output)
    {
        Graph.Outputs.Add(output);
        ShapeInference.Apply(Graph, "case");
    }

    private (List<Attention> Found, List<(Node Softmax, string Reason)> NearMisses) Find()
    {
        var file = new ModelProto { Graph = new GraphProto() };
        file.Graph.Initializer.AddRange(Graph.Constants().Select(c => new TensorProto { Name = c.Name }));
        var parameters = ParameterFinder.Find(
            Graph,
            Graph.Outputs[0],
            Graph.Constants().ToHashSet(),
            InitializerFacts.Of(file),
            new RewriteOptions()
        );
        return AttentionFinder.Find(Graph, parameters);
    }

    private Attention Single()
    {
        var (found, misses) = Find();
        Assert.Empty(misses);
        return Assert.Single(found);
    }
}
