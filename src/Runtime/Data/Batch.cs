using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Data;

/// <summary>One batch of an <see cref="IBatchSource"/>, valid until the enumeration moves on.</summary>
/// <param name="Values">The model's inputs in the manifest's order, then the target where it has one. Whoever made the
/// batch owns and frees them.</param>
/// <param name="Index">The number of this batch in its epoch, from 0.</param>
/// <param name="Samples">The number of samples in it, 1 or more: its weight among the batches of a step and in means
/// over an epoch.</param>
public sealed record Batch(IReadOnlyList<OrtValue> Values, long Index, long Samples);
