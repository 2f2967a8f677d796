using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>
/// Recurrent operators and their gradients: products over all time steps at once, and between them what needs one step
/// after the other.
/// </summary>
internal sealed class RecurrentLowering
{
    private readonly GraphBuilder _b;
    private readonly Node _node;
    private readonly RecurrentCell[] _cells;
    private readonly Term? _mask;

    private RecurrentLowering(GraphBuilder b, Node node)
    {
        (_b, _node) = (b, node);
        _cells =
        [
            .. Enumerable
                .Range(0, Recurrent.Directions(node.Attributes))
                .Select(direction => RecurrentCell.Of(node, direction)),
        ];
        _mask = node.Input(Recurrent.Lengths) is { } lengths ? Mask(new(b, lengths)) : null;
    }

    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } =
        new[] { "RNN", "GRU", "LSTM" }.SelectMany(op =>
            new (string, LoweringRule)[]
            {
                ($"{op}Forward", (b, node) => new RecurrentLowering(b, node).Forward()),
                ($"{op}Grad", (b, node) => new RecurrentLowering(b, node).Backward()),
            }
        );

    private Term X => In(Recurrent.X);

    private Term?[] Forward()
    {
        List<Term> all = [];
        var y = new List<Term>();
        var last = new List<Term>[_cells[0].StateCount];
        foreach (var (direction, cell) in _cells.Index())
        {
            var (w, r, extra, bias) = Weights(direction);
            var p = X.MatMul(w, transposeOther: true);
            var saved = KernelCalls.Recurrence(
                _b,
                cell,
                isForward: true,
                [bias is { } added ? p + added : p, r, .. Initial(direction)],
                extra,
                _mask,
                (b, operands, more, mask) => cell.Forward(b, operands[0], operands[1], more, mask, operands[2..])
            );
            var states = saved.Take(cell.StateCount).Select(s => new Term(_b, s)).ToArray();
            y.Add((_mask is { } valid ? states[0] * valid : states[0]).Unsqueeze(1));
            foreach (var (state, values) in states.Index())
            {
                (last[state] ??= []).Add(values.Op("Gather", _b.Int64s(cell.IsReversed ? 0 : -1), Int("axis", 0)));
            }

            all.AddRange(saved.Select(s => new Term(_b, s)));
        }

        return [Joined(y, 1), .. last.Select(l => (Term?)Joined(l, 0)), .. all.Select(t => (Term?)t)];
    }

    private Term?[] Backward()
    {
        var (gradients, saved) = (Recurrent.InputCount, Recurrent.InputCount + Recurrent.OutputCount);
        var results = Enumerable.Range(0, Recurrent.InputCount).Select(_ => new List<Term>()).ToArray();
        Term? dX = null;
        foreach (var (direction, cell) in _cells.Index())
        {
            var (w, r, extra, _) = Weights(direction);
            var initial = Initial(direction);
            Value[] kept = [.. _node.Inputs.Skip(saved).Take(cell.SavedCount).OfType<Value>()];
            saved += cell.SavedCount;
            var dY = _node.Inputs[gradients] is { } given ? Part(given, direction, 1) : new Term(_b, kept[0]).Zeros();
            dY = _mask is { } valid ? dY * valid : dY;
            Term[] dLast =
            [
                .. initial.Select(
                    (first, i) =>
                        _node.Inputs[gradients + 1 + i] is { } dState ? Part(dState, direction, 0) : first.Zeros()
                ),
            ];
            var found = KernelCalls
                .Recurrence(
                    _b,
                    cell,
                    isForward: false,
                    [dY, .. dLast, r, .. initial, .. kept.Select(k => new Term(_b, k))],
                    extra,
                    _mask,
                    (b, operands, more, mask) =>
                    {
                        var (states, at) = (cell.StateCount, 1 + cell.StateCount);
                        return cell.Backward(
                            b,
                            operands[0],
                            operands[1..at],
                            operands[at],
                            more,
                            mask,
                            operands[(at + 1)..(at + 1 + states)],
                            operands[(at + 1 + states)..]
                        );
                    }
                )
                .Select(v => new Term(_b, v))
                .ToArray();
            var (dInitial, dP) = (found[..cell.StateCount], found[cell.StateCount..]);
            Term[] all = [.. kept.Select(k => new Term(_b, k))];
            Term[] before = [.. initial.Select((first, i) => cell.Before(all[i], first))];
            var more = dP[0].MatMul(w);
            dX = dX is { } sum ? sum + more : more;
            Add(Recurrent.W, RecurrentCell.Product(dP[0], X));
            Add(Recurrent.R, cell.Weights(dP, before[0], all));
            Add(Recurrent.B, _b.Concat([Sum(dP[0]), Sum(dP[^1])], 0));
            foreach (var (state, gradient) in dInitial.Index())
            {
                Add(Recurrent.H + state, gradient);
            }

            if (extra is not null && cell.Peepholes(dP, before, all) is { } peepholes)
            {
                Add(Recurrent.P, peepholes);
            }
        }

        return [dX, .. results.Skip(1).Select(parts => parts.Count > 0 ? (Term?)Joined(parts, 0) : null)];

        void Add(int input, Term part)
        {
            if (_node.Inputs[input] is not null)
            {
                results[input].Add(part.Unsqueeze(0));
            }
        }

        static Term Sum(Term x) => x.Sum([0, 1], keepDims: false);
    }

    /// <summary>Gives W, R, what else a step needs, and what inputs add.</summary>
    private (Term W, Term R, Term? Extra, Term? Bias) Weights(int direction)
    {
        Term? Optional(int input) => _node.Input(input) is { } value ? Part(value, direction, 0) : null;
        var (bias, extra) = _cells[direction].Operands(Optional(Recurrent.B), Optional(Recurrent.P));
        return (
            Part(_node.Inputs[Recurrent.W]!, direction, 0),
            Part(_node.Inputs[Recurrent.R]!, direction, 0),
            extra,
            bias
        );
    }

    /// <summary>Gives the first states, [N, H] each.</summary>
    private Term[] Initial(int direction)
    {
        var cell = _cells[direction];
        return
        [
            .. Enumerable
                .Range(Recurrent.H, cell.StateCount)
                .Select(input =>
                    _node.Input(input) is { } value
                        ? Part(value, direction, 0)
                        : new Term(
                            _b,
                            _b.Op(
                                "ConstantOfShape",
                                [_b.Concat([X.DimVector(1), new(_b, _b.Int64s(cell.Hidden))], 0)],
                                Tensor("value", GraphBuilder.ScalarTensor(0, X.Type, [1]))
                            )
                        )
                ),
        ];
    }

    /// <summary>Gives 1 for the steps before the end of each sequence, else 0, [T, N, 1].</summary>
    private Term Mask(Term lengths)
    {
        var steps = _b.Op("Range", [_b.Int64(0), X.DimVector(0).Squeeze(0), _b.Int64(1)]);
        return new Term(_b, steps)
            .Unsqueeze(1, 2)
            .Op("Less", lengths.Cast(ElementType.Int64).Unsqueeze(1))
            .AsNumber(X.Type);
    }

    private Term In(int input) => new(_b, _node.Inputs[input]!);

    /// <summary>Gives what a direction has of a value.</summary>
    private Term Part(Value value, int direction, long axis) =>
        _cells.Length == 1
            ? new Term(_b, value).Squeeze(axis)
            : new Term(_b, value).Op("Gather", _b.Int64(direction), Int("axis", axis));

    private Term Joined(List<Term> parts, long axis) => parts.Count == 1 ? parts[0] : _b.Concat(parts, axis);
}
