using Google.Protobuf;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>
/// Writes a package as one model that holds its training algorithm as ONNX defines it: <c>training_info</c>.
/// </summary>
/// <remarks>
/// <para>
/// The algorithm is what a session does in one step without accumulation: the training graph, the curvature graph, the
/// optimizer graph, each behind the scalars that it reads. Hyper-parameters, the step and the optimizer's state are
/// initializers of the algorithm; the bindings name what replaces initializers. The initialization computes zeros.
/// </para>
/// <para>
/// Unlike a session it has statistics and preconditioners pass through every step unchanged where they are not due, its
/// dropout masks are functions of the step alone, and it does not skip steps whose gradients are not finite.
/// </para>
/// </remarks>
internal sealed class TrainingInfo
{
    private const string Domain = "maconnx.training";
    private const long IrVersion = 8;
    private const long LargestModel = int.MaxValue;

    private readonly TrainingPackage _package;
    private readonly ModelProto _model;
    private readonly ModelProto _steps = new() { Graph = new() };
    private readonly GraphProto _algorithm = new() { Name = "mac_step" };
    private readonly HashSet<string> _names = new(StringComparer.Ordinal);

    /// <summary>The value that a buffer has at this point of the step.</summary>
    private readonly Dictionary<string, string> _current = new(StringComparer.Ordinal);

    /// <summary>The initializer of each buffer that steps keep.</summary>
    private readonly Dictionary<string, string> _initializers = new(StringComparer.Ordinal);

    /// <summary>The initializer of each hyper-parameter, and of the step.</summary>
    private readonly Dictionary<string, string> _numbers = new(StringComparer.Ordinal);

    private TrainingInfo(TrainingPackage package)
    {
        _package = package;
        _model = InferenceModel.WithWeights(package.ForwardModel.Span, package.Weights);
        Modes.ForInference(_model);
        ModelReader.Normalize(_model, PackageFiles.Forward);
        var graph = _model.Graph;
        _names.UnionWith(graph.Input.Select(i => i.Name));
        _names.UnionWith(graph.Initializer.Select(i => i.Name));
        _names.UnionWith(graph.Node.SelectMany(n => n.Output));
    }

    private Manifest Manifest => _package.Manifest;

    /// <summary>Writes the model.</summary>
    /// <param name="path">The file.</param>
    /// <param name="package">The package.</param>
    /// <exception cref="MacOnnxException">The package needs what no graph computes, or is too large (MAC0809), or the
    /// file cannot be written (MAC0401).</exception>
    public static void Write(string path, TrainingPackage package)
    {
        var model = Of(package);
        AtomicFile.Write(path, model.WriteTo);
    }

    private static ModelProto Of(TrainingPackage package)
    {
        var bytes = package.Manifest.States.Sum(s => s.Bytes);
        Require(package.Manifest.HostRefreshes.IsEmpty, "it keeps matrices that the host inverts");
        Require(package.Manifest.Buffers.All(b => b.Role != BufferRole.LossScale), "it trains weights of 16 bits");
        Require(bytes < LargestModel, "parameters and state are more than the 2 GB that a file of ONNX holds");
        return new TrainingInfo(package).Make();

        void Require(bool holds, string why)
        {
            if (!holds)
            {
                throw new MacOnnxException(
                    "MAC0809",
                    package.Manifest.Model,
                    $"The training algorithm cannot be written into the model: {why}.",
                    "Choose another optimizer, or write a package."
                );
            }
        }
    }

    private ModelProto Make()
    {
        foreach (var state in Manifest.States)
        {
            _current[state.Name] = _initializers[state.Name] = StateOf(state);
        }

        var step = _numbers["step"] = Initializer("step", Tensor.From<long>([], [Manifest.Updates]));
        foreach (var file in new[] { PackageFiles.Training, PackageFiles.Curvature, PackageFiles.Optimizer })
        {
            if (!_package.Model(file).IsEmpty)
            {
                Schedule(file);
                Call(file, ModelReader.Read(_package.Model(file).Span, file));
            }
        }

        var next = Next(step);
        FunctionInliner.Apply(_steps, Manifest.Model);
        _algorithm.Node.AddRange(_steps.Graph.Node);
        var info = new TrainingInfoProto
        {
            Algorithm = _algorithm,
            Initialization = new() { Name = "mac_start" },
        };
        Output(_current[Manifest.Buffers.First(b => b.Role == BufferRole.Loss).Name], ElementType.Float, []);
        foreach (var state in Manifest.States.Where(s => _current[s.Name] != _initializers[s.Name]))
        {
            Output(_current[state.Name], state.Type, state.Dims);
            info.UpdateBinding.Add(Entry(_initializers[state.Name], _current[state.Name]));
            if (state.Role == BufferRole.State && !_package.Weights.ContainsKey(state.Name))
            {
                Start(info, _initializers[state.Name], state.Type, state.Dims);
            }
        }

        Output(next, ElementType.Int64, []);
        info.UpdateBinding.Add(Entry(step, next));
        if (Manifest.Updates == 0)
        {
            Start(info, step, ElementType.Int64, []);
        }

        _model.TrainingInfo.Add(info);
        _model.IrVersion = Math.Max(_model.IrVersion, IrVersion);
        _model.ProducerName = "MacOnnx";
        foreach (var domain in _steps.OpsetImport.Where(o => o.Domain != Domain).GroupBy(o => o.Domain))
        {
            var known = _model.OpsetImport.FirstOrDefault(o => o.Domain == domain.Key);
            if (known is null)
            {
                known = new OperatorSetIdProto { Domain = domain.Key };
                _model.OpsetImport.Add(known);
            }

            known.Version = Math.Max(known.Version, domain.Max(o => o.Version));
        }

        return _model;

        void Output(string name, ElementType type, IEnumerable<long> dims) =>
            _algorithm.Output.Add(Declared(name, type, dims));
    }

    /// <summary>Gives the initializer of a buffer that steps keep: the model's own, or one of the algorithm.</summary>
    private string StateOf(BufferInfo state)
    {
        var graph = _model.Graph;
        if (state.Role == BufferRole.State)
        {
            var size = state.Bytes;
            return Initializer(
                state.Name,
                _package.Weights.GetValueOrDefault(state.Name) ?? new Tensor(state.Type, state.Dims, new byte[size])
            );
        }

        if (graph.Initializer.All(i => i.Name != state.Name))
        {
            var constant = graph.Node.FirstOrDefault(n => n.OpType == "Constant" && n.Output[0] == state.Name);
            _ = constant is not null && graph.Node.Remove(constant);
            (constant is null ? _algorithm : graph).Initializer.Add(
                TensorFormat.ToProto(_package.Weights[state.Name], state.Name)
            );
            _names.Add(state.Name);
        }

        return state.Name;
    }

    /// <summary>Adds a call of a graph of the package, which is inlined later; its outputs replace buffers.</summary>
    private void Call(string file, ModelProto model)
    {
        var bindings = Manifest.Bindings.Where(b => b.Graph == file).ToArray();
        var read = bindings.Where(b => b.Direction == BindingDirection.In).ToDictionary(b => b.Value, b => b.Buffer);
        var written = bindings
            .Where(b => b.Direction == BindingDirection.Out)
            .ToDictionary(b => b.Value, b => b.Buffer, StringComparer.Ordinal);
        string[] inputs =
        [
            .. model.Graph.Input.Select(i => read.TryGetValue(i.Name, out var buffer) ? Read(file, buffer) : Data(i)),
        ];
        var outputs = new List<string>();
        foreach (var output in model.Graph.Output.Select(o => o.Name))
        {
            outputs.Add(Fresh(output));
            if (written.TryGetValue(output, out var buffer))
            {
                _current[buffer] = outputs[^1];
            }
        }

        Call(Path.GetFileNameWithoutExtension(file), model, inputs, outputs);
    }

    /// <summary>
    /// Gives the value of a buffer. ONNX Runtime's BatchNormalization writes its batch's statistics over the running
    /// ones that it reads, though others read them later: it gets copies.
    /// </summary>
    private string Read(string file, string buffer)
    {
        var current = _current[buffer];
        if (
            file != PackageFiles.Training
            || Manifest.Buffers.First(b => b.Name == buffer).Role != BufferRole.RunningStatistic
        )
        {
            return current;
        }

        var node = new NodeProto { OpType = "Sum", Name = Fresh($"mac/{buffer}") };
        node.Input.Add(current);
        node.Output.Add(Fresh($"{buffer}/copy"));
        _steps.Graph.Node.Add(node);
        return node.Output[0];
    }

    private void Call(string name, ModelProto model, IEnumerable<string> inputs, IEnumerable<string> outputs)
    {
        // Functions of different graphs may have one name.
        ModelReader.Normalize(model, name);
        var graph = model.Graph;
        var function = new FunctionProto { Name = name, Domain = Domain };
        function.Input.AddRange(graph.Input.Select(i => i.Name));
        function.Output.AddRange(graph.Output.Select(o => o.Name));
        function.Node.AddRange(graph.Initializer.Select(Constant));
        function.Node.AddRange(graph.Node);
        function.OpsetImport.AddRange(model.OpsetImport);
        var call = new NodeProto
        {
            OpType = name,
            Domain = Domain,
            Name = Fresh($"mac/{name}"),
        };
        call.Input.AddRange(inputs);
        call.Output.AddRange(outputs);
        _steps.Functions.Add(function);
        _steps.Graph.Node.Add(call);
        _steps.OpsetImport.AddRange(model.OpsetImport);
    }

    /// <summary>Computes what a graph reads and the runtime gives it: scalars by their formulas, the flag for
    /// statistics and the seed.</summary>
    private void Schedule(string file)
    {
        var read = Manifest.Bindings.Where(b => b.Graph == file && b.Direction == BindingDirection.In);
        var missing = read.Select(b => b.Buffer).Where(b => !_current.ContainsKey(b)).ToHashSet(StringComparer.Ordinal);
        var g = new Graph { Name = "schedule" };
        g.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(g) { Origin = "schedule" };
        var inputs = new OrderedDictionary<string, (Term Term, string Name)>(StringComparer.Ordinal);
        var outputs = new List<string>();
        foreach (var buffer in Manifest.Buffers.Where(x => missing.Contains(x.Name)))
        {
            var value = buffer.Role switch
            {
                BufferRole.Scalar => Formula
                    .Read(buffer.Formula!, n => new Term(b, b.Scalar(n, ElementType.Double)), Variable, Apply)
                    .Cast(ElementType.Float),
                BufferRole.UpdateStatistics => IsDue("stat_every"),
                BufferRole.DropoutSeed => Read("step"),
                _ => throw new InvalidOperationException($"No graph computes '{buffer.Name}'."),
            };
            g.Outputs.Add(b.Named(value, g.FreshName($"scalar {buffer.Name}")));
            outputs.Add(_current[buffer.Name] = Fresh(buffer.Name));
        }

        if (outputs.Count > 0)
        {
            Call($"schedule_{file}", ModelWriter.ToProto(g), inputs.Values.Select(i => i.Name), outputs);
        }

        Term Variable(string name) =>
            name switch
            {
                "step" => (Read("step") + 1).Cast(ElementType.Double),
                "update" => IsDue("stat_every").AsNumber(ElementType.Double),
                "refresh" => IsDue("refresh_every").AsNumber(ElementType.Double),
                "loss_count" when LossCount is null => new(b, b.Scalar(1, ElementType.Double)),
                _ => Read(name).Cast(ElementType.Double),
            };

        Term IsDue(string interval)
        {
            var step = Read("step");
            return step.Op("Mod", Read(interval)).Op("Equal", step.Scalar(0));
        }

        Term Read(string name)
        {
            if (!inputs.TryGetValue(name, out var input))
            {
                var source = name == "loss_count" ? LossCount! : HyperparameterOf(name);
                var type = name is "step" or "stat_every" or "refresh_every" ? ElementType.Int64 : ElementType.Float;
                inputs[name] = input = (new(b, b.Input(name, type, Shape.Scalar)), source);
            }

            return input.Term;
        }

        static Term Apply(char operation, Term left, Term right) =>
            operation switch
            {
                '+' => left + right,
                '-' => left - right,
                '*' => left * right,
                '/' => left / right,
                _ => left.Op("Pow", right),
            };
    }

    /// <summary>Gets the value that counts what the step's loss is the mean over; null for none.</summary>
    private string? LossCount =>
        Manifest.Buffers.FirstOrDefault(b => b.Role == BufferRole.LossCount) is { } count
            ? _current.GetValueOrDefault(count.Name)
            : null;

    private string HyperparameterOf(string name)
    {
        if (!_numbers.TryGetValue(name, out var initializer))
        {
            var h = Manifest.Options.Hyperparameters;
            initializer = _numbers[name] = Initializer(
                name,
                name switch
                {
                    "stat_every" => Tensor.From<long>([], [h.StatEvery]),
                    "refresh_every" => Tensor.From<long>([], [h.RefreshEvery]),
                    _ => Tensor.From<float>([], [(float)h.Named(name)!.Value]),
                }
            );
        }

        return initializer;
    }

    private string Next(string step)
    {
        var g = new Graph { Name = "count" };
        g.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(g);
        g.Outputs.Add(new Term(b, b.Input("step", ElementType.Int64, Shape.Scalar)) + 1);
        var next = Fresh("step_new");
        Call("count", ModelWriter.ToProto(g), [step], [next]);
        return next;
    }

    /// <summary>Gives the input for data: the model's own, or one of the algorithm.</summary>
    private string Data(ValueInfoProto input)
    {
        if (_model.Graph.Input.All(i => i.Name != input.Name) && _algorithm.Input.All(i => i.Name != input.Name))
        {
            _algorithm.Input.Add(input);
            _names.Add(input.Name);
        }

        return input.Name;
    }

    private string Initializer(string stem, Tensor tensor)
    {
        var name = Fresh(stem);
        _algorithm.Initializer.Add(TensorFormat.ToProto(tensor, name));
        return name;
    }

    private string Fresh(string stem)
    {
        var name = stem;
        for (var n = 1; !_names.Add(name); n++)
        {
            name = $"{stem}_{n}";
        }

        return name;
    }

    /// <summary>Has a tensor start at zero.</summary>
    private static void Start(
        TrainingInfoProto info,
        string initializer,
        ElementType type,
        IReadOnlyCollection<long> dims
    )
    {
        var graph = info.Initialization;
        var (shape, zeros) = ($"{initializer}/shape", $"{initializer}/zeros");
        graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<long>([dims.Count], [.. dims]), shape));
        var node = new NodeProto { OpType = "ConstantOfShape", Name = zeros };
        node.Input.Add(shape);
        node.Output.Add(zeros);
        node.Attribute.Add(AttributeFormat.ToProto(Attr.Tensor("value", GraphBuilder.ScalarTensor(0, type, [1]))));
        graph.Node.Add(node);
        graph.Output.Add(Declared(zeros, type, dims));
        info.InitializationBinding.Add(Entry(initializer, zeros));
    }

    private static ValueInfoProto Declared(string name, ElementType type, IEnumerable<long> dims) =>
        DeclarationFormat.ToProto(name, type, dims.Select(d => new DeclaredDim(d, null)));

    private static StringStringEntryProto Entry(string key, string value) => new() { Key = key, Value = value };

    private static NodeProto Constant(TensorProto tensor)
    {
        var node = new NodeProto { OpType = "Constant", Name = tensor.Name };
        node.Output.Add(tensor.Name);
        node.Attribute.Add(AttributeFormat.ToProto(Attr.Tensor("value", TensorFormat.FromProto(tensor))));
        return node;
    }
}
