using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Tests.Support;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>
/// Every preconditioner and update in double precision, written from the papers' formulas with dense matrices: the
/// literal inverses where the package uses the Sherman-Morrison formula, singular vectors of no package code.
/// </summary>
/// <param name="options">What the package was rewritten with.</param>
/// <param name="heads">The weights that Muon leaves to AdamW.</param>
/// <param name="own">The hyper-parameters of a parameter's update; null for those of all.</param>
internal sealed class ReferenceOptimizer(
    RewriteOptions options,
    string[] heads,
    Func<string, Hyperparameters>? own = null
)
{
    private readonly Dictionary<string, double[]> _averages = [];
    private readonly Dictionary<string, double[]> _used = [];
    private readonly Dictionary<string, double[]> _first = [];
    private readonly Dictionary<string, double[]> _second = [];
    private int _averaged;
    private int _step;

    private Hyperparameters Rates => options.Hyperparameters;

    /// <summary>Makes one step.</summary>
    /// <param name="parameters">The parameters, which it changes.</param>
    /// <param name="layers">The rows of each layer.</param>
    /// <param name="count">What the loss is the mean over.</param>
    public void Step(Dictionary<string, double[]> parameters, LayerRows[] layers, double count)
    {
        var updates = _step % Rates.StatEvery == 0;
        var refreshes = _step % Rates.RefreshEvery == 0;
        _averaged += updates ? 1 : 0;
        _step++;
        foreach (var layer in layers)
        {
            foreach (var (name, statistic) in Statistics(layer, count))
            {
                var key = $"{layer.Weight}/{name}";
                var average = _averages.GetValueOrDefault(key) ?? new double[statistic.Length];
                _averages[key] = updates
                    ? [.. average.Zip(statistic, (e, m) => (Rates.StatDecay * e) + ((1 - (double)Rates.StatDecay) * m))]
                    : average;
                if (refreshes)
                {
                    _used[key] = [.. _averages[key].Select(e => e / (1 - Math.Pow(Rates.StatDecay, _averaged)))];
                }
            }

            var (rows, columns) = (layer.Gradients[0].Length, layer.Inputs[0].Length);
            var g = new double[rows, columns];
            foreach (var (input, gradient) in layer.Inputs.Zip(layer.Gradients))
            {
                Each(rows, columns, (o, i) => g[o, i] += gradient[o] * input[i]);
            }

            g = Precondition(layer.Weight, g);
            var inputs = layer.Bias is null ? columns : columns - 1;
            var weight = new double[rows * inputs];
            Each(rows, inputs, (o, i) => weight[layer.OutputFirst ? (o * inputs) + i : (i * rows) + o] = g[o, i]);
            var shape = layer.OutputFirst ? (rows, inputs) : (inputs, rows);
            Update(parameters, layer.Weight, weight, heads.Contains(layer.Weight) ? null : shape);
            if (layer.Bias is { } bias)
            {
                Update(parameters, bias, [.. Enumerable.Range(0, rows).Select(o => g[o, inputs])], null);
            }
        }
    }

    /// <summary>The means over rows of what the method averages.</summary>
    private IEnumerable<(string Name, double[] Value)> Statistics(LayerRows layer, double count)
    {
        double[] Mean(List<double[]> rows, Func<double[], IEnumerable<double>> function) =>
            rows.Select(r => function(r).ToArray())
                .Aggregate((a, b) => [.. a.Zip(b, (x, y) => x + y)])
                .Select(s => s / rows.Count)
                .ToArray();
        static IEnumerable<double> Outer(double[] r) => r.SelectMany(x => r.Select(y => x * y));
        return options.Methods.Curvature switch
        {
            CurvatureKind.Mac => [("a", Mean(layer.Inputs, r => r))],
            CurvatureKind.Smac =>
            [
                ("a", Mean(layer.Inputs, r => r)),
                ("z", Mean(layer.Gradients, r => r.Select(x => x * x))),
            ],
            CurvatureKind.Eva => [("a", Mean(layer.Inputs, r => r)), ("b", Mean(layer.Gradients, r => r))],
            CurvatureKind.Foof => [("A", Mean(layer.Inputs, Outer))],
            CurvatureKind.Kfac =>
            [
                ("A", Mean(layer.Inputs, Outer)),
                ("B", Mean(layer.Gradients, r => Outer([.. r.Select(x => count * x)]))),
            ],
            _ => [],
        };
    }

    private double[,] Precondition(string layer, double[,] g)
    {
        var rho = (double)Rates.Damping;
        var (rows, columns) = (g.GetLength(0), g.GetLength(1));
        double[] Used(string name) => _used[$"{layer}/{name}"];
        double[,] Outer(double[] v) => Make(v.Length, v.Length, (i, j) => v[i] * v[j]);
        double[,] Square(double[] v, int n) => Make(n, n, (i, j) => v[(i * n) + j]);
        double[,] Damped(double[,] m, double damping) =>
            Make(m.GetLength(0), m.GetLength(0), (i, j) => m[i, j] + (i == j ? damping : 0));
        switch (options.Methods.Curvature)
        {
            case CurvatureKind.Mac:
            case CurvatureKind.Smac:
                // rho G (a a^T + rho I)^-1.
                var mac = Times(g, Inverse(Damped(Outer(Used("a")), rho)));
                var isSmac = options.Methods.Curvature == CurvatureKind.Smac;
                return Make(rows, columns, (o, i) => rho * mac[o, i] / (isSmac ? Used("z")[o] + rho : 1));
            case CurvatureKind.Foof:
                return Times(g, Inverse(Damped(Square(Used("A"), columns), rho)));
            case CurvatureKind.Kfac:
                var (a, b) = (Square(Used("A"), columns), Square(Used("B"), rows));
                double Mean(double[,] m, int n) => Enumerable.Range(0, n).Average(i => m[i, i]);
                var pi = Math.Sqrt(Mean(a, columns) / Mean(b, rows));
                return Times(
                    Times(Inverse(Damped(b, Math.Sqrt(rho) / pi)), g),
                    Inverse(Damped(a, pi * Math.Sqrt(rho)))
                );
            case CurvatureKind.Eva:
                // The inverse of the whole [out in, out in] matrix (b b^T) (x) (a a^T) + rho I.
                var (x, y) = (Used("a"), Used("b"));
                var whole = Make(
                    rows * columns,
                    rows * columns,
                    (i, j) => y[i / columns] * y[j / columns] * x[i % columns] * x[j % columns]
                );
                var vector = Make(rows * columns, 1, (i, _) => g[i / columns, i % columns]);
                var solved = Times(Inverse(Damped(whole, rho)), vector);
                return Make(rows, columns, (o, i) => solved[(o * columns) + i, 0]);
            default:
                return g;
        }
    }

    private void Update(
        Dictionary<string, double[]> parameters,
        string name,
        double[] gradient,
        (int Rows, int Columns)? hiddenMatrix
    )
    {
        var rates = own?.Invoke(name) ?? Rates;
        var (theta, rate, mu) = (parameters[name], (double)rates.LearningRate, (double)rates.Momentum);
        var decay = name.EndsWith(".b", StringComparison.Ordinal) ? 0 : (double)rates.WeightDecay;
        var first = _first[name] = _first.GetValueOrDefault(name) ?? new double[theta.Length];
        var second = _second[name] = _second.GetValueOrDefault(name) ?? new double[theta.Length];
        var (b1, b2) = ((double)rates.Beta1, (double)rates.Beta2);
        var update = options.Methods.Update;
        if (update == UpdateKind.Muon && hiddenMatrix is { } size)
        {
            for (var i = 0; i < theta.Length; i++)
            {
                first[i] = (mu * first[i]) + gradient[i];
            }

            var direction = Orthogonal(
                Make(
                    size.Rows,
                    size.Columns,
                    (r, c) => gradient[(r * size.Columns) + c] + (mu * first[(r * size.Columns) + c])
                )
            );
            var scale = rate * 0.2 * Math.Sqrt(Math.Max(size.Rows, size.Columns));
            Each(
                size.Rows,
                size.Columns,
                (r, c) =>
                {
                    var k = (r * size.Columns) + c;
                    theta[k] = (theta[k] * (1 - (rate * decay))) - (scale * direction[r, c]);
                }
            );
            return;
        }

        for (var i = 0; i < theta.Length; i++)
        {
            if (update == UpdateKind.Momentum)
            {
                first[i] = (mu * first[i]) + gradient[i] + (decay * theta[i]);
                theta[i] -= rate * first[i];
                continue;
            }

            first[i] = (b1 * first[i]) + ((1 - b1) * gradient[i]);
            second[i] = (b2 * second[i]) + ((1 - b2) * gradient[i] * gradient[i]);
            var corrected = first[i] / (1 - Math.Pow(b1, _step));
            var deviation = Math.Sqrt(second[i] / (1 - Math.Pow(b2, _step))) + Rates.Epsilon;
            theta[i] = (theta[i] * (1 - (rate * decay))) - (rate * corrected / deviation);
        }
    }

    /// <summary>Five steps of Muon's polynomial, spelled with the matrix X X^T for either shape.</summary>
    private static double[,] Orthogonal(double[,] x)
    {
        var norm = Math.Sqrt(x.Cast<double>().Sum(v => v * v)) + 1e-7;
        x = Make(x.GetLength(0), x.GetLength(1), (i, j) => x[i, j] / norm);
        for (var step = 0; step < 5; step++)
        {
            var transposed = Make(x.GetLength(1), x.GetLength(0), (i, j) => x[j, i]);
            var gram = Times(x, transposed);
            var (once, twice) = (Times(gram, x), Times(gram, Times(gram, x)));
            x = Make(
                x.GetLength(0),
                x.GetLength(1),
                (i, j) => (3.4445 * x[i, j]) - (4.775 * once[i, j]) + (2.0315 * twice[i, j])
            );
        }

        return x;
    }

    /// <summary>Gauss and Jordan, with pivots.</summary>
    private static double[,] Inverse(double[,] matrix)
    {
        var n = matrix.GetLength(0);
        var a = Make(
            n,
            2 * n,
            (i, j) =>
                j < n ? matrix[i, j]
                : j - n == i ? 1
                : 0
        );
        for (var k = 0; k < n; k++)
        {
            var pivot = Enumerable.Range(k, n - k).MaxBy(i => Math.Abs(a[i, k]));
            for (var j = 0; j < 2 * n; j++)
            {
                (a[k, j], a[pivot, j]) = (a[pivot, j], a[k, j]);
            }

            var scale = a[k, k];
            for (var j = 0; j < 2 * n; j++)
            {
                a[k, j] /= scale;
            }

            for (var i = 0; i < n; i++)
            {
                var factor = i == k ? 0 : a[i, k];
                for (var j = 0; j < 2 * n; j++)
                {
                    a[i, j] -= factor * a[k, j];
                }
            }
        }

        return Make(n, n, (i, j) => a[i, n + j]);
    }

    private static double[,] Times(double[,] left, double[,] right) =>
        Make(
            left.GetLength(0),
            right.GetLength(1),
            (i, j) => Enumerable.Range(0, right.GetLength(0)).Sum(k => left[i, k] * right[k, j])
        );

    private static double[,] Make(int rows, int columns, Func<int, int, double> element)
    {
        var result = new double[rows, columns];
        Each(rows, columns, (i, j) => result[i, j] = element(i, j));
        return result;
    }

    private static void Each(int rows, int columns, Action<int, int> action)
    {
        for (var i = 0; i < rows; i++)
        {
            for (var j = 0; j < columns; j++)
            {
                action(i, j);
            }
        }
    }
}
