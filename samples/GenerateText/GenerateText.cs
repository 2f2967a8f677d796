using System.Globalization;
using System.Text;
using Microsoft.ML.OnnxRuntime;

// Continues a text with a language model over bytes, such as 'maconnx train models/chargpt.onnx' exports. ONNX Runtime
// is all it needs.
if (args.Length is 0 or > 6)
{
    Console.Error.WriteLine(
        "usage: GenerateText trained.onnx [prompt] [length: 600] [temperature: 0.8] [seed: 0] [context: 64]"
    );
    return 1;
}

try
{
    var text = Argument(1, "In the beginning ") is { Length: > 0 } prompt ? prompt : "\n";
    var length = int.Parse(Argument(2, "600"), CultureInfo.InvariantCulture);
    var temperature = float.Parse(Argument(3, "0.8"), CultureInfo.InvariantCulture);
    var random = new Random(int.Parse(Argument(4, "0"), CultureInfo.InvariantCulture));
    var context = int.Parse(Argument(5, "64"), CultureInfo.InvariantCulture);

    using var model = new InferenceSession(args[0]);
    using var output = Console.OpenStandardOutput();
    var bytes = Encoding.UTF8.GetBytes(text).ToList();
    output.Write([.. bytes]);
    for (var i = 0; i < length; i++)
    {
        var ids = bytes.TakeLast(context).Select(b => (long)b).ToArray();
        var next = Sample(Logits(model, ids), temperature, random);
        bytes.Add((byte)next);
        output.WriteByte((byte)next);
        output.Flush();
    }

    output.WriteByte((byte)'\n');
    return 0;
}
catch (Exception e) when (e is OnnxRuntimeException or FormatException or OverflowException)
{
    Console.Error.WriteLine($"error: {e.Message}");
    return 1;
}

string Argument(int index, string otherwise) => args.Length > index ? args[index] : otherwise;

// Gives the scores of the token that follows the last one.
static float[] Logits(InferenceSession model, long[] ids)
{
    using var input = OrtValue.CreateTensorValueFromMemory(ids, [1, ids.Length]);
    using var options = new RunOptions();
    using var outputs = model.Run(options, [model.InputNames[0]], [input], [model.OutputNames[0]]);
    var logits = outputs[0].GetTensorDataAsSpan<float>();
    return logits[(logits.Length / ids.Length * (ids.Length - 1))..].ToArray();
}

// Draws a token from the softmax of the scores; a low temperature prefers the likely ones, 0 takes the likeliest.
static int Sample(float[] logits, float temperature, Random random)
{
    var highest = logits.Max();
    if (temperature <= 0)
    {
        return Array.IndexOf(logits, highest);
    }

    var weights = logits.Select(l => Math.Exp((l - highest) / temperature)).ToArray();
    var left = random.NextDouble() * weights.Sum();
    var drawn = Array.FindIndex(weights, w => (left -= w) < 0);

    // None only where rounding lost the last part of the sum.
    return drawn < 0 ? Array.IndexOf(logits, highest) : drawn;
}
