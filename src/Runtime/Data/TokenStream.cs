using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>
/// One stream of tokens, as the inputs and as the labels of a language model, that is cut into windows.
/// </summary>
internal sealed class TokenStream
{
    private readonly Tensor _inputs;
    private readonly long _context;

    /// <summary>
    /// Initializes a new instance of the <see cref="TokenStream"/> class; see <see cref="Dataset.FromTokens"/>.
    /// </summary>
    public TokenStream(string source, IReadOnlyList<InputSpec> specs, Tensor tokens, long? context)
    {
        if (
            specs is not [{ Dims: [_, var length] } input, { Dims.Length: 2 } labels]
            || input.Type.IsFloatingPoint()
            || labels.Type.IsFloatingPoint()
        )
        {
            throw new MacOnnxException(
                "MAC0609",
                source,
                $"The model expects {string.Join(", ", specs.Select(s => $"'{s.Name}' {s}"))}, not tokens.",
                "Token data are for a model with one integer input [batch, sequence] and a label for each "
                    + "token; give others a .npz file."
            );
        }

        _context =
            (context ?? length) is var wanted && wanted >= 1 && (length < 0 || wanted == length)
                ? wanted
                : throw new MacOnnxException(
                    "MAC0609",
                    $"{nameof(TrainerOptions)}.{nameof(TrainerOptions.Context)}",
                    context is null
                        ? "The model leaves the length of a sample open."
                        : $"The model does not take samples of {context} tokens.",
                    length < 0 ? "Give the tokens of a sample, 1 or more." : $"The model fixes them to {length}."
                );
        _inputs = TensorFit.Fit(tokens, input with { Dims = [-1] }, source);
        Labels = TensorFit.Fit(_inputs, labels with { Dims = [-1] }, source);
        Check(source);
    }

    private TokenStream(string source, Tensor inputs, Tensor labels, long context)
    {
        (_inputs, Labels, _context) = (inputs, labels, context);
        Check(source);
    }

    /// <summary>Gets all tokens, of the labels' type.</summary>
    public Tensor Labels { get; }

    /// <summary>
    /// Gets the number of windows: one less than fit, which leaves room to cut later, and a last label.
    /// </summary>
    private long Count => (_inputs.Dims[0] / _context) - 1;

    /// <summary>Gives the inputs and the labels of all windows, as views.</summary>
    /// <param name="shift">How many tokens later than the first to begin, 0 to the context less one.</param>
    public Tensor[] Windows(long shift)
    {
        return [Cut(_inputs, shift), Cut(Labels, shift + 1)];

        Tensor Cut(Tensor tokens, long first) =>
            new(tokens.Type, [Count, _context], Part(tokens, first, first + (Count * _context)).Data);
    }

    /// <summary>Gives an epoch's shift.</summary>
    public long Shift(ulong seed, long epoch) =>
        // The streams of epochs and splits are elsewhere.
        SplitMix64.Stream(seed, long.MinValue + epoch).Below(_context);

    /// <summary>Cuts in two; no window or label reaches from one part into the other.</summary>
    public (TokenStream Start, TokenStream End) Split(string source, double endFraction)
    {
        var cut = _inputs.Dims[0] - (long)Math.Round(endFraction * _inputs.Dims[0]);
        return (Between(0, cut), Between(cut, _inputs.Dims[0]));

        TokenStream Between(long first, long end) =>
            new(source, Part(_inputs, first, end), Part(Labels, first, end), _context);
    }

    private static Tensor Part(Tensor tokens, long first, long end)
    {
        var size = tokens.Type.Size();
        return new(tokens.Type, [end - first], tokens.Data[(int)(first * size)..(int)(end * size)]);
    }

    private void Check(string source)
    {
        if (Count < 1)
        {
            throw new MacOnnxException(
                "MAC0609",
                source,
                $"{_inputs.Dims[0]} tokens are too few for a sample of {_context}.",
                $"Give twice as many tokens or more, or a smaller "
                    + $"{nameof(TrainerOptions)}.{nameof(TrainerOptions.Context)}."
            );
        }
    }
}
