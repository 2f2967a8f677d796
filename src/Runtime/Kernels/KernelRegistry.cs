using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// Registers kernels written in C# with ONNX Runtime, in place of the functions that define their operators.
/// </summary>
/// <remarks>
/// ONNX Runtime describes a custom operator by a C struct of callbacks, OrtCustomOp. The callbacks here are static
/// methods; they find the
/// managed entry behind the struct. Structs and the domain live as long as the process: sessions keep pointers to them.
/// </remarks>
public static unsafe class KernelRegistry
{
    private static readonly Lock Adding = new();
    private static readonly List<KernelEntry> Added = [];
    private static readonly Lazy<nint[]> Domains = new(RegisterAll);

    /// <summary>Gets the library's own operators that have a kernel.</summary>
    internal static IReadOnlyList<KernelEntry> Entries { get; } =
    [
        Own("MomentumUpdate", info => new MomentumUpdate(info)),
        Own("MacMomentumUpdate", info => new MacUpdate(info, hasBias: false)),
        Own("MacMomentumUpdateWithBias", info => new MacUpdate(info, hasBias: true)),
        Own("AdamWUpdate", info => new AdamWUpdate(info)),
        Own("SquaredNorm", _ => new SquaredNorm()),
        Own("SumLeading", info => new SumLeading(info)),
        Own("ReluGrad", _ => new ReluGrad()),
        Own("GeluGrad", _ => new GeluGrad()),
        Own("SoftmaxGrad", _ => new SoftmaxGrad()),
        Own("LayerNormGrad", info => new LayerNormGrad(info)),
        Own("Conv", info => new Conv(info, hasBias: false)),
        Own("ConvWithBias", info => new Conv(info, hasBias: true)),
        Own("ConvDataGrad", info => new ConvDataGrad(info)),
        Own("ConvWeightGrad", info => new ConvWeightGrad(info)),
        Own("BatchNorm", info => new BatchNorm(info, hasRelu: false)),
        Own("BatchNormRelu", info => new BatchNorm(info, hasRelu: true)),
        Own("BatchNormGrad", info => new BatchNormGrad(info, hasRelu: false)),
        Own("BatchNormReluGrad", info => new BatchNormGrad(info, hasRelu: true)),
        Own("MaxPoolGrad", info => new MaxPoolGrad(info)),
    ];

    /// <summary>Adds a kernel for an operator of a domain of your own.</summary>
    /// <remarks>For the whole process, before its first session that uses kernels.</remarks>
    /// <param name="signature">The operator.</param>
    /// <param name="create">Makes the kernel of a node, when a session is created.</param>
    /// <exception cref="ArgumentException">The operator has a kernel, or is in a domain of ONNX, of ONNX Runtime or of
    /// this library.</exception>
    /// <exception cref="InvalidOperationException">A session uses kernels already.</exception>
    public static void Add(OperatorSignature signature, Func<KernelInfo, Kernel> create)
    {
        ArgumentNullException.ThrowIfNull(signature);
        ArgumentNullException.ThrowIfNull(create);
        lock (Adding)
        {
            if (signature.Domain is "" or "ai.onnx" or "com.microsoft" or FunctionCall.Domain)
            {
                throw new ArgumentException($"Domain '{signature.Domain}' is not yours.", nameof(signature));
            }

            if (Added.Any(e => (e.Signature.Domain, e.Signature.Name) == (signature.Domain, signature.Name)))
            {
                throw new ArgumentException($"{signature.Name} has a kernel already.", nameof(signature));
            }

            if (Domains.IsValueCreated)
            {
                throw new InvalidOperationException("Add kernels before the first session that uses kernels.");
            }

            Added.Add(new(signature, create));
        }
    }

    /// <summary>Lets sessions with these options use the kernels. They run on the CPU.</summary>
    /// <param name="options">The options.</param>
    public static void AddTo(SessionOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        foreach (var domain in Domains.Value)
        {
            OrtApi.AddDomain(options.DangerousGetHandle(), domain);
        }
    }

    private static KernelEntry Own(string name, Func<KernelInfo, Kernel> create) =>
        new(FunctionSignatures.All[name], create);

    private static nint[] RegisterAll()
    {
        lock (Adding)
        {
            return [.. Entries.Concat(Added).GroupBy(e => e.Signature.Domain, StringComparer.Ordinal).Select(Register)];
        }
    }

    private static nint Register(IGrouping<string, KernelEntry> entries)
    {
        var domain = OrtApi.CreateDomain(entries.Key);
        foreach (var entry in entries)
        {
            OrtApi.AddOperator(domain, CustomOp.Create(entry));
        }

        return domain;
    }

#pragma warning disable IDE0044 // The order of the fields is the layout.
    /// <summary>OrtCustomOp as of the API version in use, and two fields of our own behind it.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct CustomOp
    {
        private uint _version;
        private void* _createKernel;
        private delegate* unmanaged<CustomOp*, byte*> _getName,
            _getExecutionProviderType;
        private delegate* unmanaged<CustomOp*, nuint, int> _getInputType;
        private delegate* unmanaged<CustomOp*, nuint> _getInputTypeCount;
        private delegate* unmanaged<CustomOp*, nuint, int> _getOutputType;
        private delegate* unmanaged<CustomOp*, nuint> _getOutputTypeCount;
        private void* _kernelCompute;
        private delegate* unmanaged<nint, void> _kernelDestroy;
        private delegate* unmanaged<CustomOp*, nuint, int> _getInputCharacteristic,
            _getOutputCharacteristic,
            _getInputMemoryType;
        private delegate* unmanaged<CustomOp*, int> _getVariadicInputMinArity,
            _getVariadicInputHomogeneity,
            _getVariadicOutputMinArity,
            _getVariadicOutputHomogeneity;
        private delegate* unmanaged<CustomOp*, nint, nint, nint*, nint> _createKernelV2;
        private delegate* unmanaged<nint, nint, nint> _kernelComputeV2;
        private delegate* unmanaged<CustomOp*, nint, nint> _inferOutputShape;
        private delegate* unmanaged<CustomOp*, int> _getStartVersion,
            _getEndVersion;
        private void* _getMayInplace,
            _releaseMayInplace,
            _getAliasMap,
            _releaseAliasMap;
        private byte* _name;
        private nint _entry;

        public static CustomOp* Create(KernelEntry entry)
        {
            var op = (CustomOp*)NativeMemory.AllocZeroed((nuint)sizeof(CustomOp));
            op->_version = OrtApi.Version;
            op->_getName = &GetName;
            op->_getExecutionProviderType = &GetExecutionProviderType;
            op->_getInputType = op->_getOutputType = &GetFloatType;
            op->_getInputTypeCount = &GetInputCount;
            op->_getOutputTypeCount = &GetOutputCount;
            op->_getInputCharacteristic = op->_getOutputCharacteristic = op->_getInputMemoryType = &GetZero;
            op->_getVariadicInputMinArity =
                op->_getVariadicInputHomogeneity =
                op->_getVariadicOutputMinArity =
                op->_getVariadicOutputHomogeneity =
                    &GetOne;
            op->_createKernelV2 = &CreateKernel;
            op->_kernelComputeV2 = &Compute;
            op->_kernelDestroy = &Destroy;
            op->_inferOutputShape = &InferShapes;
            op->_getStartVersion = &GetOne;
            op->_getEndVersion = &GetMaximum;
            op->_name = (byte*)Marshal.StringToCoTaskMemUTF8(entry.Signature.Name);
            op->_entry = GCHandle.ToIntPtr(GCHandle.Alloc(entry));
            return op;
        }

        private static KernelEntry EntryOf(CustomOp* op) => (KernelEntry)GCHandle.FromIntPtr(op->_entry).Target!;

        [UnmanagedCallersOnly]
        private static byte* GetName(CustomOp* op) => op->_name;

        [UnmanagedCallersOnly]
        private static byte* GetExecutionProviderType(CustomOp* op) => null; // the CPU's

        [UnmanagedCallersOnly]
        private static int GetFloatType(CustomOp* op, nuint index) => (int)ElementType.Float;

        [UnmanagedCallersOnly]
        private static int GetZero(CustomOp* op, nuint index) => 0;

        [UnmanagedCallersOnly]
        private static int GetOne(CustomOp* op) => 1;

        [UnmanagedCallersOnly]
        private static int GetMaximum(CustomOp* op) => int.MaxValue;

        [UnmanagedCallersOnly]
        private static nuint GetInputCount(CustomOp* op) => (nuint)EntryOf(op).Signature.Inputs.Length;

        [UnmanagedCallersOnly]
        private static nuint GetOutputCount(CustomOp* op) => (nuint)EntryOf(op).Signature.Outputs.Length;

        [UnmanagedCallersOnly]
        private static nint CreateKernel(CustomOp* op, nint api, nint info, nint* kernel) =>
            Try(() => *kernel = GCHandle.ToIntPtr(GCHandle.Alloc(EntryOf(op).Create(new KernelInfo(info)))));

        [UnmanagedCallersOnly]
        private static nint Compute(nint kernel, nint context)
        {
            try
            {
                ((Kernel)GCHandle.FromIntPtr(kernel).Target!).Compute(new KernelContext(context));
                return 0;
            }
#pragma warning disable CA1031 // An exception must not unwind through native frames.
            catch (Exception e)
            {
                return OrtApi.CreateStatus(e);
            }
        }

        [UnmanagedCallersOnly]
        private static void Destroy(nint kernel) => GCHandle.FromIntPtr(kernel).Free();

        [UnmanagedCallersOnly]
        private static nint InferShapes(CustomOp* op, nint context) =>
            Try(() =>
            {
                var signature = EntryOf(op).Signature;
                for (var i = 0; i < signature.Outputs.Length; i++)
                {
                    if (signature.ShapeOf(i) is { } input)
                    {
                        OrtApi.InferLikeInput(context, i, input);
                    }
                }
            });

        private static nint Try(Action action)
        {
            try
            {
                action();
                return 0;
            }
            catch (Exception e)
            {
                return OrtApi.CreateStatus(e);
            }
#pragma warning restore CA1031
        }
    }
}

/// <summary>An operator that a kernel computes.</summary>
/// <param name="Signature">The operator.</param>
/// <param name="Create">Makes the kernel of a node.</param>
internal sealed record KernelEntry(OperatorSignature Signature, Func<KernelInfo, Kernel> Create);
