using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime;

/// <summary>A parameter's gradient against finite differences of the loss.</summary>
/// <param name="Name">The parameter.</param>
/// <param name="Derivative">The derivative of the loss along a direction by the gradient: sum(g d).</param>
/// <param name="Difference">The same by a five-point difference of losses.</param>
/// <param name="Scale">What the two are compared relative to: sum(|g d|), or sqrt(sum((g d)^2)) for the random
/// direction.</param>
/// <param name="Uncertainty">How far the difference may be off: by the rounding of losses, and by what a larger step
/// changes.</param>
public sealed record ParameterCheck(string Name, double Derivative, double Difference, double Scale, double Uncertainty)
{
    /// <summary>The largest error of a right gradient, relative to <see cref="Scale"/>, beside the
    /// uncertainty.</summary>
    public const double Tolerance = 0.03;

    /// <summary>Gets the error as a multiple of what is allowed: 1 or less for a right gradient, infinite where a loss
    /// was not finite.</summary>
    public double Error =>
        Math.Abs(Derivative - Difference) / ((Tolerance * Scale) + Uncertainty) is var error && double.IsFinite(error)
            ? error
            : double.PositiveInfinity;

    /// <summary>Gets whether the gradient agrees with the loss.</summary>
    public bool IsRight => Error <= 1;

    /// <summary>Gets whether a gradient of this size is below what differences of the loss show: only an error larger
    /// than the gradient would have been found.</summary>
    public bool IsBelowNoise => IsRight && Uncertainty > Scale;
}

/// <summary>What <see cref="GradientCheck"/> found.</summary>
/// <param name="Parameters">Every trained parameter, the worst first.</param>
/// <param name="TrainingLoss">The loss of the training graph.</param>
/// <param name="EvaluationLoss">The loss of the evaluation graph; null where the two differ on purpose, by dropout or
/// the batch's statistics.</param>
/// <param name="Noise">How far rounding moves the loss.</param>
public sealed record GradientCheckResult(
    ImmutableArray<ParameterCheck> Parameters,
    double TrainingLoss,
    double? EvaluationLoss,
    double Noise
)
{
    /// <summary>Gets whether training and evaluation graph give the same loss, to 1e-4 of it and what rounding
    /// explains.</summary>
    public bool LossesAgree =>
        EvaluationLoss is not { } loss
        || Math.Abs(loss - TrainingLoss) <= (1e-4 * Math.Abs(TrainingLoss)) + (4 * Noise);

    /// <summary>Gets whether every gradient and the loss are right.</summary>
    public bool IsRight => LossesAgree && Parameters.All(p => p.IsRight);
}

/// <summary>Compares the gradients of a training graph with finite differences of its own loss.</summary>
/// <remarks>
/// Each parameter moves along two directions d of its own norm: one whose signs are the gradient's, which shows a wrong
/// scale or sign, and a random one, which shows elements whose gradient is missing. A difference takes five points,
/// (8 (L(h) - L(-h)) - (L(2h) - L(-2h))) / 12h, its error is of order h^4. Kinks (Relu) favor small steps, rounding
/// large
/// ones: the step is the smallest at which rounding stays below the tolerance, and what four times the step changes
/// counts
/// as uncertainty. How far rounding moves the loss is measured by changing every weight by its last bit. Dropout masks
/// stay the
/// same, and statistics of batch normalizations are the batch's in all losses.
/// </remarks>
public static class GradientCheck
{
    /// <summary>The largest and the smallest step, relative to the parameter's norm.</summary>
    private const double Largest = 1.0 / 16;
    private const double Smallest = 1.0 / 16384;

    /// <summary>Checks every trained parameter on one batch. The session's weights are afterwards what they were, its
    /// accumulated gradients are forgotten.</summary>
    /// <param name="session">The session.</param>
    /// <param name="inputs">The batch, as in <see cref="MacTrainingSession.TrainStep"/>.</param>
    /// <param name="seed">The seed of the directions.</param>
    /// <param name="cancellationToken">Ends the check before the next parameter.</param>
    /// <exception cref="GraphRewriter.Diagnostics.MacOnnxException">The data do not fit the model.</exception>
    /// <exception cref="OperationCanceledException">Cancelled.</exception>
    public static GradientCheckResult Run(
        MacTrainingSession session,
        IReadOnlyList<OrtValue> inputs,
        ulong seed = 0,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentNullException.ThrowIfNull(inputs);
        return Run(session, inputs, seed, (name, s) => s.Gradient(name).ToDouble(), cancellationToken);
    }

    /// <summary>Checks gradients that a function gives after a train step.</summary>
    internal static GradientCheckResult Run(
        MacTrainingSession session,
        IReadOnlyList<OrtValue> inputs,
        ulong seed,
        Func<string, MacTrainingSession, double[]> gradient,
        CancellationToken cancellationToken = default
    )
    {
        var manifest = session.Package.Manifest;
        var (state, random) = (session.GetState(), new SplitMix64(seed));
        try
        {
            session.ResetGradients();
            double loss = session.TrainStep(inputs);
            var gradients = manifest.Trained.ToDictionary(n => n, n => gradient(n, session), StringComparer.Ordinal);
            var noise = Rounding(session, inputs, state, loss, ref random);
            var parameters = new List<ParameterCheck>();
            foreach (var name in manifest.Trained)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var probe = new Probe(session, inputs, name, state[name], noise);
                parameters.Add(probe.Check(gradients[name], ref random));
            }

            double? evaluation = IsDeterministic(session) ? session.EvalStep(inputs).Loss : null;
            return new([.. parameters.OrderByDescending(p => p.Error)], loss, evaluation, noise);
        }
        finally
        {
            session.SetState(state);
            session.ResetGradients();
        }
    }

    /// <summary>Whether training computes what evaluation does: no dropout, no statistics of the batch.</summary>
    private static bool IsDeterministic(MacTrainingSession session)
    {
        var manifest = session.Package.Manifest;
        var running = manifest.Buffers.Where(b => b.Role == BufferRole.RunningStatistic).Select(b => b.Name);
        var written = manifest.Bindings.Where(b => b.Direction == BindingDirection.Out).Select(b => b.Buffer);
        return manifest.Buffers.All(b => b.Role != BufferRole.DropoutSeed) && !running.Intersect(written).Any();
    }

    /// <summary>Measures how far the loss moves when every weight moves by its last bit; 1e-7 of the loss at
    /// least.</summary>
    private static double Rounding(
        MacTrainingSession session,
        IReadOnlyList<OrtValue> inputs,
        IReadOnlyDictionary<string, Tensor> state,
        double loss,
        ref SplitMix64 random
    )
    {
        var trained = session.Package.Manifest.Trained;

        // The last bit is 2^-23 of a float; where the loss is scaled, weights pass through float16 with 2^-10.
        var bit = session.Package.Manifest.Buffers.Any(b => b.Role == BufferRole.LossScale) ? 1.0 / 1024 : 1.2e-7;
        var noise = 1e-7 * Math.Abs(loss);
        for (var i = 0; i < 4; i++)
        {
            var moved = new Dictionary<string, Tensor>(StringComparer.Ordinal);
            foreach (var name in trained)
            {
                var values = state[name].ToDouble();
                for (var j = 0; j < values.Length; j++)
                {
                    values[j] *= 1 + (random.Below(2) == 0 ? bit : -bit);
                }

                moved[name] = Floats(state[name], values);
            }

            session.SetState(moved);
            noise = Math.Max(noise, Math.Abs(Loss(session, inputs) - loss));
        }

        session.SetState(trained.ToDictionary(n => n, n => state[n], StringComparer.Ordinal));
        return noise;
    }

    private static double Loss(MacTrainingSession session, IReadOnlyList<OrtValue> inputs)
    {
        // Without an update between, the step's number and so its dropout masks stay the same.
        session.ResetGradients();
        return session.TrainStep(inputs);
    }

    private static Tensor Floats(Tensor like, double[] values) =>
        Tensor.From<float>(like.Dims.AsSpan(), [.. values.Select(v => (float)v)]);

    /// <summary>Moves one parameter.</summary>
    private sealed class Probe(
        MacTrainingSession session,
        IReadOnlyList<OrtValue> inputs,
        string name,
        Tensor start,
        double noise
    )
    {
        private readonly double[] _start = start.ToDouble();

        /// <summary>Takes the best of three draws: a kink that lies within a step by chance does so for few
        /// directions, a wrong gradient is wrong along all.</summary>
        public ParameterCheck Check(double[] gradient, ref SplitMix64 random)
        {
            var best = Draw(gradient, 1, ref random);
            for (var again = 0; again < 2 && !best.IsRight; again++)
            {
                var other = Draw(gradient, 0.5, ref random);
                best = other.Error < best.Error ? other : best;
            }

            session.SetState(new Dictionary<string, Tensor>(StringComparer.Ordinal) { [name] = start });
            return best;
        }

        /// <summary>Gives the worse of two directions.</summary>
        private ParameterCheck Draw(double[] gradient, double shrink, ref SplitMix64 random)
        {
            var direction = new double[gradient.Length];
            for (var i = 0; i < direction.Length; i++)
            {
                direction[i] = random.Normal();
            }

            // Zero weights, such as new biases, have no norm to go by: they move as weights of 0.01 would.
            var norm = Math.Max(Norm(_start), 0.01 * Math.Sqrt(_start.Length));
            var factor = norm / Math.Max(Norm(direction), double.Epsilon);
            double[] any = [.. direction.Select(d => factor * d)];
            double[] along = [.. any.Zip(gradient, (d, g) => g == 0 ? d : Math.CopySign(d, g))];
            var first = Along(along, gradient, shrink, p => p.Sum(Math.Abs));
            var second = Along(any, gradient, shrink, Norm);
            return second.IsBelowNoise || (first.Error >= second.Error && !first.IsBelowNoise) ? first : second;
        }

        private static double Norm(double[] values) => Math.Sqrt(values.Sum(v => v * v));

        private ParameterCheck Along(
            double[] direction,
            double[] gradient,
            double shrink,
            Func<double[], double> scaleOf
        )
        {
            double[] products = [.. gradient.Zip(direction, (g, d) => g * d)];
            var scale = scaleOf(products);

            // Of four losses that are each off by the noise, (8 + 8 + 1 + 1) / 12 of it can reach the difference.
            var rounding = 1.5 * noise;
            var size = Math.Max(scale, Math.Abs(Difference(direction, Largest)));
            var step = shrink * Math.Min(Math.Max(rounding / (ParameterCheck.Tolerance * size), Smallest), Largest);
            var difference = Difference(direction, step);
            var uncertainty = (rounding / step) + Math.Abs(Difference(direction, 4 * step) - difference);
            return new(name, products.Sum(), difference, scale, uncertainty);
        }

        private double Difference(double[] direction, double step)
        {
            return ((8 * (At(step) - At(-step))) - (At(2 * step) - At(-2 * step))) / (12 * step);

            double At(double h)
            {
                double[] moved = [.. _start.Zip(direction, (w, d) => w + (h * d))];
                session.SetState(
                    new Dictionary<string, Tensor>(StringComparer.Ordinal) { [name] = Floats(start, moved) }
                );
                return Loss(session, inputs);
            }
        }
    }
}
