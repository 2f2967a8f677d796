using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>A step of the training algorithm that a model file holds (<c>training_info</c>).</summary>
/// <param name="Model">The step as an ONNX file of standard operators: the tensors that it updates are inputs.</param>
/// <param name="Updates">For each such input the output that replaces it after a step.</param>
/// <param name="State">The values to start from, by inputs.</param>
public sealed record OnnxTrainingStep(
    ReadOnlyMemory<byte> Model,
    IReadOnlyDictionary<string, string> Updates,
    IReadOnlyDictionary<string, Tensor> State
);

/// <summary>
/// ONNX's own training operators (domain <c>ai.onnx.preview.training</c>), which no runtime has: Gradient, Adam,
/// Adagrad and Momentum.
/// </summary>
public static class OnnxTraining
{
    private const string Domain = "ai.onnx.preview.training";

    /// <summary>Spells the training operators of a model with standard ones, so that the stock ONNX Runtime runs
    /// it.</summary>
    /// <param name="path">The ONNX file.</param>
    /// <returns>The model as an ONNX file, of the same inputs and outputs.</returns>
    /// <remarks>
    /// Formulas are those of ONNX's operator documentation, version 1 of the domain; T counts updates from 0. A
    /// Gradient becomes the nodes that differentiate y with respect to xs, at the values that these have in the graph.
    /// </remarks>
    /// <exception cref="MacOnnxException">The model cannot be read; or a Gradient is taken at other values or through
    /// operators without gradient, another Gradient among them (MAC0101, MAC0807).</exception>
    public static byte[] Lower(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        return Lower(ModelReader.Read(path), path);
    }

    /// <summary>Reads the training algorithm of a model as ONNX defines it: one graph of the model's own and the
    /// algorithm's, whose outputs replace initializers after each step.</summary>
    /// <param name="path">The ONNX file.</param>
    /// <exception cref="MacOnnxException">As for <see cref="Lower(string)"/>; or the file has no algorithm or several,
    /// or binds what is not there (MAC0807).</exception>
    public static OnnxTrainingStep ReadTrainingInfo(string path)
    {
        var model = ModelReader.Read(path);
        if (model.TrainingInfo.Count != 1)
        {
            throw Unbound(path, $"the file has {model.TrainingInfo.Count} training algorithms, and one is understood");
        }

        var info = model.TrainingInfo[0];
        var graph = model.Graph;
        graph.MergeFrom(info.Algorithm ?? new GraphProto());
        var updates = Bindings(info.UpdateBinding, path);
        var state = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        var computed = graph.Node.SelectMany(n => n.Output).ToHashSet(StringComparer.Ordinal);
        foreach (var (name, output) in updates)
        {
            var initializer = graph.Initializer.FirstOrDefault(i => i.Name == name);
            if (initializer is null || !computed.Contains(output))
            {
                throw Unbound(path, $"it binds '{output}' to '{name}', and one of them is not there");
            }

            var tensor = TensorFormat.FromProto(initializer);
            state.Add(name, tensor);
            graph.Initializer.Remove(initializer);
            if (graph.Input.All(i => i.Name != name))
            {
                var dims = tensor.Dims.Select(d => new DeclaredDim(d, null));
                graph.Input.Add(DeclarationFormat.ToProto(name, tensor.Type, dims));
            }

            if (graph.Output.All(o => o.Name != output))
            {
                graph.Output.Add(new ValueInfoProto { Name = output });
            }
        }

        foreach (var (name, tensor) in Initial(model, info, path))
        {
            if (state.ContainsKey(name))
            {
                state[name] = tensor;
            }
        }

        model.TrainingInfo.Clear();
        return new(Lower(model, path), updates, state);
    }

    private static byte[] Lower(ModelProto model, string path)
    {
        ModelReader.Normalize(model, path);
        var graph = GraphImporter.Import(model, path);
        InputDimensions.Name(graph, new Dictionary<string, long>(), path);
        ShapeInference.Apply(graph, path, standIns: StandIns);
        GraphBuilder.Expand(graph, node => Rule(node) is { } rule ? b => Update(b, node, rule) : null);
        foreach (var node in graph.Nodes.Where(n => IsTraining(n, "Gradient")).ToArray())
        {
            Differentiate(graph, node);
        }

        graph.Opsets.Remove(Domain);
        Lowering.Lower.Apply(graph);
        return ModelWriter.ToBytes(graph);
    }

    /// <summary>Runs the graph of the first values.</summary>
    private static IEnumerable<(string Name, Tensor Value)> Initial(
        ModelProto model,
        TrainingInfoProto info,
        string path
    )
    {
        var bindings = Bindings(info.InitializationBinding, path);
        if (bindings.Count == 0 || info.Initialization is null)
        {
            return [];
        }

        var part = new ModelProto { IrVersion = model.IrVersion, Graph = info.Initialization.Clone() };
        part.OpsetImport.AddRange(model.OpsetImport.Select(o => o.Clone()));
        ModelReader.Normalize(part, path);
        var graph = GraphImporter.Import(part, path);
        var missing = bindings.Values.Except(graph.Nodes.SelectMany(n => n.Outputs).Select(o => o.Name)).ToArray();
        if (graph.Inputs.Count > 0 || missing.Length > 0)
        {
            throw Unbound(path, "its initialization has inputs, or does not compute what is bound");
        }

        var known = graph.Constants().ToDictionary(v => v.Name, v => v.Constant!, StringComparer.Ordinal);
        return bindings.Keys.Zip(SubgraphRun.Run(graph, graph.Nodes, known, [.. bindings.Values]));
    }

    private static OrderedDictionary<string, string> Bindings(IEnumerable<StringStringEntryProto> entries, string path)
    {
        var bindings = new OrderedDictionary<string, string>(StringComparer.Ordinal);
        return entries.All(e => bindings.TryAdd(e.Key, e.Value))
            ? bindings
            : throw Unbound(path, "it binds an initializer twice");
    }

    private static MacOnnxException Unbound(string path, string why) =>
        new(
            "MAC0807",
            path,
            $"The training algorithm cannot be read: {why}.",
            "Write one algorithm whose bindings name initializers and outputs of its graphs."
        );

    private static bool IsTraining(Node node, string opType) => node.Domain == Domain && node.OpType == opType;

    /// <summary>Every output has the shape of the tensor that is updated or differentiated by.</summary>
    private static IEnumerable<Node> StandIns(Node node)
    {
        if (node.Domain != Domain)
        {
            return [node];
        }

        var first = node.OpType == "Gradient" ? 0 : 2;
        var count = node.OpType == "Gradient" ? node.Outputs.Count : Tensors(node);
        return node.Outputs.Select(
            (output, i) => new Node("Identity", "", "", [node.Inputs[first + (i % count)]], [], [output])
        );
    }

    /// <summary>
    /// Gives the number of tensors that an optimizer updates: R and T come first, then groups of so many.
    /// </summary>
    private static int Tensors(Node node) => (node.Inputs.Count - 2) / (node.OpType == "Adam" ? 4 : 3);

    private static Func<Step, Term[]>? Rule(Node node) =>
        node.Domain == Domain
            ? node.OpType switch
            {
                "Adam" => Adam,
                "Adagrad" => Adagrad,
                "Momentum" => Momentum,
                _ => null,
            }
            : null;

    /// <summary>Emits the update of each tensor; groups of results lie one behind the other.</summary>
    private static void Update(GraphBuilder b, Node node, Func<Step, Term[]> rule)
    {
        var count = Tensors(node);
        for (var i = 0; i < count; i++)
        {
            var own = i;
            Term Tensor(int kind) => new(b, node.Inputs[2 + (kind * count) + own]!);
            var rate = new Term(b, node.Inputs[0]!).Cast(Tensor(0).Type);
            var results = rule(new(node.Attributes, rate, new(b, node.Inputs[1]!), Tensor));
            for (var k = 0; k < results.Length; k++)
            {
                b.Assign(node.Outputs[(k * count) + i], results[k]);
            }
        }
    }

    private static Term[] Momentum(Step step)
    {
        var (alpha, beta) = (step.Number("alpha", 0), step.Number("beta", 1));
        var (x, v) = (step.Tensor(0), step.Tensor(2));
        var gradient = step.Regularized;
        var share = x.Scalar(beta).Where(step.HasUpdated, x.Scalar(1));
        var next = (alpha * v) + (share * gradient);
        var change = step.Text("mode", "standard") == "nesterov" ? gradient + (alpha * next) : next;
        return [x - (step.Rate * change), next];
    }

    private static Term[] Adagrad(Step step)
    {
        var (x, h, gradient) = (step.Tensor(0), step.Tensor(2), step.Regularized);
        var rate = step.Rate / (1 + (step.Updates.Cast(step.Rate.Type) * step.Number("decay_factor", 0)));
        var next = h + (gradient * gradient);
        return [x - (rate * gradient / (next.Sqrt() + step.Number("epsilon", 0))), next];
    }

    private static Term[] Adam(Step step)
    {
        var (alpha, beta) = (step.Number("alpha", 0.9), step.Number("beta", 0.999));
        var (x, gradient) = (step.Tensor(0), step.Regularized);
        var first = (alpha * step.Tensor(2)) + ((1 - alpha) * gradient);
        var second = (beta * step.Tensor(3)) + ((1 - beta) * (gradient * gradient));
        var updates = step.Updates.Cast(step.Rate.Type);
        Term Correction(double decay) => 1 - updates.Scalar(decay).Op("Pow", updates);
        var rate = (step.Rate * Correction(beta).Sqrt() / Correction(alpha)).Where(step.HasUpdated, step.Rate);
        var next = x - (rate * first / (second.Sqrt() + step.Number("epsilon", 1e-6)));
        return [next * (1 - step.Number("norm_coefficient_post", 0)), first, second];
    }

    /// <summary>Appends the gradient before what comes behind the node.</summary>
    private static void Differentiate(Graph graph, Node node)
    {
        var (xs, zs) = (node.Attributes.Strings("xs") ?? [], node.Attributes.Strings("zs") ?? []);
        var y = Named(node.Attributes.Text("y", ""));
        if (!node.Inputs.Select(i => i?.Name).SequenceEqual(xs.Concat(zs)))
        {
            throw Refused("it is taken at other values than those that xs and zs name");
        }

        var behind = graph.Nodes.Skip(graph.Position(node) + 1).ToArray();
        Value[] wanted = [.. node.Inputs.Take(xs.Length).OfType<Value>()];
        foreach (var other in behind.Prepend(node))
        {
            graph.Remove(other);
        }

        var b = new GraphBuilder(graph) { Origin = $"gradient {node}", Prefix = $"{node.Outputs[0].Name}/" };
        var gradients = Backward.Differentiate(graph, y, new Term(b, y).Filled(1), wanted, node.ToString());
        foreach (var (x, output) in wanted.Zip(node.Outputs))
        {
            b.Assign(output, gradients.TryGetValue(x, out var gradient) ? gradient : new Term(b, x).Zeros());
        }

        Array.ForEach(behind, graph.Add);

        Value Named(string name) =>
            graph.Nodes.SelectMany(n => n.Outputs).FirstOrDefault(o => o.Name == name)
            ?? throw Refused($"nothing before it computes '{name}'");

        MacOnnxException Refused(string why) =>
            new(
                "MAC0807",
                node.ToString(),
                $"The gradient cannot be spelt: {why}.",
                "Write one Gradient for each place that a function is differentiated at."
            );
    }

    /// <summary>What an update is computed from.</summary>
    /// <param name="Attributes">The node's attributes.</param>
    /// <param name="Rate">R, the learning rate.</param>
    /// <param name="Updates">T, the updates before.</param>
    /// <param name="Tensor">Gives the tensor to update (0), its gradient (1) and its state (2, 3).</param>
    private sealed record Step(Attributes Attributes, Term Rate, Term Updates, Func<int, Term> Tensor)
    {
        public Term Regularized => (Number("norm_coefficient", 0) * Tensor(0)) + Tensor(1);

        public Value HasUpdated => Updates.Op("Greater", Updates.Scalar(0));

        public double Number(string name, double fallback) => Attributes.Float(name, (float)fallback);

        public string Text(string name, string fallback) => Attributes.Text(name, fallback);
    }
}
