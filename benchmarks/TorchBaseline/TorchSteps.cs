using TorchSharp;
using static TorchSharp.torch;

namespace MacOnnx.Benchmarks.TorchBaseline;

/// <summary>Makes training steps in TorchSharp: eager, SGD with momentum 0.9, float32 on the CPU.</summary>
internal static class TorchSteps
{
    /// <summary>Makes the step of a model of <see cref="BenchmarkModel.All"/>, with fresh weights.</summary>
    /// <param name="model">The model's name.</param>
    /// <param name="threads">Threads that TorchSharp uses within an operator, from now on and in the whole
    /// process.</param>
    public static ITorchStep Create(string model, int threads)
    {
        set_num_threads(threads);
        random.manual_seed(0);
        return new TorchStep(BenchmarkModel.Get(model), TorchModels.Create(model));
    }

    private sealed class TorchStep : ITorchStep
    {
        private readonly nn.Module<Tensor, Tensor> module;
        private readonly optim.Optimizer optimizer;
        private readonly Tensor input;
        private readonly Tensor labels;

        public TorchStep(BenchmarkModel model, nn.Module<Tensor, Tensor> module)
        {
            Name = model.Name;
            this.module = module;
            module.train();
            optimizer = optim.SGD(module.parameters(), learningRate: 0.01, momentum: 0.9);
            input = (model.Vocabulary is null ? tensor(model.CreateInput()) : tensor(model.CreateIds())).reshape(
                model.InputShape
            );
            labels = tensor(model.CreateLabels());
        }

        public string Name { get; }

        public float Step()
        {
            using DisposeScope scope = NewDisposeScope();
            optimizer.zero_grad();
            Tensor logits = module.forward(input);
            Tensor loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[^1]), labels);
            loss.backward();
            optimizer.step();
            return loss.item<float>();
        }

        public void Dispose()
        {
            labels.Dispose();
            input.Dispose();
            optimizer.Dispose();
            module.Dispose();
        }
    }
}
