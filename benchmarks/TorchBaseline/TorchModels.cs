using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace MacOnnx.Benchmarks.TorchBaseline;

/// <summary>The architectures of export_models.py in TorchSharp, with default initialisation.</summary>
internal static class TorchModels
{
    /// <summary>Makes a model of <see cref="BenchmarkModel.All"/> by name.</summary>
    public static Module<Tensor, Tensor> Create(string name) =>
        name switch
        {
            "mlp" => Mlp(),
            "lenet" => LeNet(),
            "resnet20" => ResNet20(),
            "resnet18" => ResNet18(),
            "mobilenet" => MobileNet(),
            "encoder" => new Encoder(),
            "gpt" => new Gpt(vocabulary: 256, context: 128, width: 96, layers: 3, heads: 4, hidden: 288),
            "lstm" => new Lstm(),
            _ => throw new ArgumentException($"TorchSharp has no model '{name}'."),
        };

    private static Module<Tensor, Tensor> Mlp() =>
        Sequential(Linear(784, 512), ReLU(), Linear(512, 512), ReLU(), Linear(512, BenchmarkModel.Classes));

    private static Module<Tensor, Tensor> LeNet() =>
        Sequential(
            Conv2d(1, 6, 5, padding: 2),
            ReLU(),
            MaxPool2d(2),
            Conv2d(6, 16, 5),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Linear(400, 120),
            ReLU(),
            Linear(120, 84),
            ReLU(),
            Linear(84, BenchmarkModel.Classes)
        );

    private static Module<Tensor, Tensor> ResNet20()
    {
        var layers = new List<Module<Tensor, Tensor>> { ConvBn(3, 16, 3, 1), ReLU() };
        int channelsIn = 16;
        foreach (int channels in (int[])[16, 32, 64])
        {
            for (int block = 0; block < 3; block++)
            {
                layers.Add(new ResidualBlock(channelsIn, channels, channels == channelsIn ? 1 : 2));
                channelsIn = channels;
            }
        }

        layers.AddRange([AdaptiveAvgPool2d(1), Flatten(), Linear(64, BenchmarkModel.Classes)]);
        return Sequential(layers);
    }

    private static Module<Tensor, Tensor> ResNet18()
    {
        var layers = new List<Module<Tensor, Tensor>>
        {
            ConvBn(3, 64, 7, 2),
            ReLU(),
            MaxPool2d(3, stride: 2, padding: 1),
        };
        int channelsIn = 64;
        foreach (int channels in (int[])[64, 128, 256, 512])
        {
            layers.Add(new ResidualBlock(channelsIn, channels, channels == channelsIn ? 1 : 2));
            layers.Add(new ResidualBlock(channels, channels, 1));
            channelsIn = channels;
        }

        layers.AddRange([AdaptiveAvgPool2d(1), Flatten(), Linear(512, BenchmarkModel.Classes)]);
        return Sequential(layers);
    }

    private static Module<Tensor, Tensor> MobileNet()
    {
        var layers = new List<Module<Tensor, Tensor>> { ConvBn(3, 32, 3, 2), ReLU6() };
        int channelsIn = 32;
        foreach (
            (int expansion, int channels, int blocks, int stride) in (ReadOnlySpan<(int, int, int, int)>)
                [
                    (1, 16, 1, 1),
                    (6, 24, 2, 2),
                    (6, 32, 3, 2),
                    (6, 64, 4, 2),
                    (6, 96, 3, 1),
                    (6, 160, 3, 2),
                    (6, 320, 1, 1),
                ]
        )
        {
            for (int block = 0; block < blocks; block++)
            {
                layers.Add(new InvertedResidual(channelsIn, channels, block == 0 ? stride : 1, expansion));
                channelsIn = channels;
            }
        }

        layers.AddRange([ConvBn(320, 1280, 1, 1), ReLU6(), AdaptiveAvgPool2d(1), Flatten()]);
        layers.Add(Linear(1280, BenchmarkModel.Classes));
        return Sequential(layers);
    }

    private static Module<Tensor, Tensor> ConvBn(
        int channelsIn,
        int channelsOut,
        int kernel,
        int stride,
        int groups = 1
    ) =>
        Sequential(
            Conv2d(channelsIn, channelsOut, kernel, stride, padding: kernel / 2, groups: groups, bias: false),
            BatchNorm2d(channelsOut)
        );

    /// <summary>
    /// MobileNetV2's block: a 1x1 convolution to more channels, a depthwise 3x3 convolution and a 1x1 convolution to
    /// few channels, beside an identity where the shape stays.
    /// </summary>
    private sealed class InvertedResidual : Module<Tensor, Tensor>
    {
        private readonly Module<Tensor, Tensor> layers;
        private readonly bool isResidual;

        public InvertedResidual(int channelsIn, int channelsOut, int stride, int expansion)
            : base(nameof(InvertedResidual))
        {
            int hidden = channelsIn * expansion;
            List<Module<Tensor, Tensor>> parts = expansion == 1 ? [] : [ConvBn(channelsIn, hidden, 1, 1), ReLU6()];
            parts.AddRange([ConvBn(hidden, hidden, 3, stride, groups: hidden), ReLU6()]);
            parts.Add(ConvBn(hidden, channelsOut, 1, 1));
            layers = Sequential(parts);
            isResidual = stride == 1 && channelsIn == channelsOut;
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) =>
            isResidual ? input + layers.forward(input) : layers.forward(input);
    }

    /// <summary>Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the size changes.</summary>
    private sealed class ResidualBlock : Module<Tensor, Tensor>
    {
        private readonly Module<Tensor, Tensor> first;
        private readonly Module<Tensor, Tensor> second;
        private readonly Module<Tensor, Tensor> shortcut;

        public ResidualBlock(int channelsIn, int channelsOut, int stride)
            : base(nameof(ResidualBlock))
        {
            first = ConvBn(channelsIn, channelsOut, 3, stride);
            second = ConvBn(channelsOut, channelsOut, 3, 1);
            shortcut =
                stride > 1 || channelsIn != channelsOut ? ConvBn(channelsIn, channelsOut, 1, stride) : Identity();
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) =>
            functional.relu(second.forward(functional.relu(first.forward(input))) + shortcut.forward(input));
    }

    /// <summary>A pre-norm transformer layer: x + attention(norm(x)), then x + feedforward(norm(x)).</summary>
    private sealed class EncoderLayer : Module<Tensor, Tensor>
    {
        private readonly int width;
        private readonly int heads;
        private readonly Module<Tensor, Tensor> norm1;
        private readonly Module<Tensor, Tensor> norm2;
        private readonly Module<Tensor, Tensor> qkv;
        private readonly Module<Tensor, Tensor> projection;
        private readonly Module<Tensor, Tensor> feedforward;

        private readonly Tensor? later;

        public EncoderLayer(int width, int heads, int hidden, int causal = 0)
            : base(nameof(EncoderLayer))
        {
            this.width = width;
            later = causal > 0 ? ones(causal, causal, dtype: ScalarType.Bool).triu(1) : null;
            this.heads = heads;
            norm1 = LayerNorm(width);
            norm2 = LayerNorm(width);
            qkv = Linear(width, 3 * width);
            projection = Linear(width, width);
            feedforward = Sequential(Linear(width, hidden), GELU(), Linear(hidden, width));
            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            Tensor x = input + Attention(norm1.forward(input));
            return x + feedforward.forward(norm2.forward(x));
        }

        private Tensor Attention(Tensor x)
        {
            long tokens = x.shape[1];
            long headWidth = width / heads;
            Tensor[] parts =
            [
                .. qkv.forward(x)
                    .split(width, -1)
                    .Select(part => part.reshape(-1, tokens, heads, headWidth).transpose(1, 2)),
            ];
            // Written out: on the CPU a training step is a fifth faster than with scaled_dot_product_attention.
            Tensor scores = parts[0].matmul(parts[1].transpose(-2, -1)) / Math.Sqrt(headWidth);
            if (later is not null)
            {
                scores = scores.masked_fill(later[..(int)tokens, ..(int)tokens], double.NegativeInfinity);
            }

            Tensor result = functional.softmax(scores, -1).matmul(parts[2]);
            return projection.forward(result.transpose(1, 2).reshape(-1, tokens, width));
        }
    }

    /// <summary>Four encoder layers over tokens of width 128, the mean over the tokens, and a classifier.</summary>
    private sealed class Encoder : Module<Tensor, Tensor>
    {
        private readonly Module<Tensor, Tensor> layers;
        private readonly Module<Tensor, Tensor> head;

        public Encoder()
            : base(nameof(Encoder))
        {
            layers = Sequential(
                Enumerable.Range(0, 4).Select(_ => new EncoderLayer(width: 128, heads: 4, hidden: 512))
            );
            head = Linear(128, BenchmarkModel.Classes);
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => head.forward(layers.forward(input).mean([1]));
    }

    /// <summary>Embeddings of token and position, causal layers, a normalization, logits of the next token.</summary>
    private sealed class Gpt : Module<Tensor, Tensor>
    {
        private readonly Module<Tensor, Tensor> token;
        private readonly Module<Tensor, Tensor> position;
        private readonly Module<Tensor, Tensor> layers;

        public Gpt(int vocabulary, int context, int width, int layers, int heads, int hidden)
            : base(nameof(Gpt))
        {
            token = Embedding(vocabulary, width);
            position = Embedding(context, width);
            this.layers = Sequential([
                .. Enumerable
                    .Range(0, layers)
                    .Select(_ => (Module<Tensor, Tensor>)new EncoderLayer(width, heads, hidden, context)),
                LayerNorm(width),
                Linear(width, vocabulary, hasBias: false),
            ]);
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) =>
            layers.forward(token.forward(input) + position.forward(arange(input.shape[1])));
    }

    /// <summary>Two LSTM layers of 256 units, and a classifier of the last state.</summary>
    private sealed class Lstm : Module<Tensor, Tensor>
    {
        private readonly TorchSharp.Modules.LSTM lstm;
        private readonly Module<Tensor, Tensor> head;

        public Lstm()
            : base(nameof(Lstm))
        {
            lstm = LSTM(256, 256, numLayers: 2, batchFirst: true);
            head = Linear(256, BenchmarkModel.Classes);
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => head.forward(lstm.call(input).Item1.select(1, -1));
    }
}
