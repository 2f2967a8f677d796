namespace MacOnnx.Runtime;

/// <summary>What the preconditioner of a layer did in one step; NaN for what does not apply to the layer.</summary>
/// <param name="Layer">The name of the layer's weight.</param>
/// <param name="MeanShare">
/// |m|^2 / E|x|^2, from 0 to 1: the share of the energy of the batch's input rows x that their mean m has. MAC sees
/// nothing else of them.
/// </param>
/// <param name="Shrinkage">
/// |p|^2 / (rho + |p|^2), from 0 to 1: the part of a gradient along the activation mean p that MAC takes away.
/// </param>
/// <param name="Cosine">
/// |G p| / (|G| |p|), from 0 to 1: how far the gradient rows lie along p, the root mean square over the rows.
/// </param>
/// <param name="Update">|W' - W| / |W|: the length of the update over that of the weight.</param>
public readonly record struct LayerDiagnostics(
    string Layer,
    float MeanShare,
    float Shrinkage,
    float Cosine,
    float Update
);
