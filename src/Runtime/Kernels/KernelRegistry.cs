using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Kernels;

/// <summary>An operator that a kernel computes.</summary>
/// <param name="Name">The operator, of domain <see cref="FunctionCall.Domain"/>.</param>
/// <param name="InputCount">The number of its inputs.</param>
/// <param name="Shapes">For each output the input whose shape it has; -1 for another shape.</param>
/// <param name="Create">Makes the kernel of a node.</param>
internal sealed record KernelEntry(string Name, int InputCount, int[] Shapes, Func<KernelInfo, Kernel> Create);

/// <summary>
/// Registers kernels written in C# with ONNX Runtime, in place of the functions that define their operators.
/// </summary>
/// <remarks>
/// ONNX Runtime describes a custom operator by a C struct of callbacks, OrtCustomOp. The callbacks here are static
/// methods; they find the
/// managed entry behind the struct. Structs and the domain live as long as the process: sessions keep pointers to them.
/// </remarks>
internal static unsafe class KernelRegistry
{
    /// <summary>Gets the operators that have a kernel.</summary>
    public static IReadOnlyList<KernelEntry> Entries { get; } =
    [
        new("MomentumUpdate", 6, [0, 1], info => new MomentumUpdate(info)),
        new("MacMomentumUpdate", 8, [0, 1], info => new MacUpdate(info, hasBias: false)),
        new("MacMomentumUpdateWithBias", 11, [0, 1, 8, 9], info => new MacUpdate(info, hasBias: true)),
        new("AdamWUpdate", 11, [0, 1, 2], info => new AdamWUpdate(info)),
        new("SquaredNorm", 1, [-1], _ => new SquaredNorm()),
        new("SumLeading", 1, [-1], info => new SumLeading(info)),
        new("ReluGrad", 2, [0], _ => new ReluGrad()),
        new("GeluGrad", 3, [0], _ => new GeluGrad()),
        new("SoftmaxGrad", 2, [0], _ => new SoftmaxGrad()),
        new("LayerNormGrad", 5, [1, 2, 2], info => new LayerNormGrad(info)),
        new("Conv", 2, [-1], info => new Conv(info, hasBias: false)),
        new("ConvWithBias", 3, [-1], info => new Conv(info, hasBias: true)),
        new("ConvDataGrad", 2, [-1], info => new ConvDataGrad(info)),
        new("ConvWeightGrad", 2, [-1], info => new ConvWeightGrad(info)),
        new("BatchNorm", 5, [0, 1, 1], info => new BatchNorm(info, hasRelu: false)),
        new("BatchNormRelu", 5, [0, 1, 1], info => new BatchNorm(info, hasRelu: true)),
        new("BatchNormGrad", 5, [1, 2, 2], info => new BatchNormGrad(info, hasRelu: false)),
        new("BatchNormReluGrad", 6, [1, 2, 2], info => new BatchNormGrad(info, hasRelu: true)),
        new("MaxPoolGrad", 3, [1], info => new MaxPoolGrad(info)),
    ];

    private static readonly Lazy<nint> Operators = new(Register);

    /// <summary>Lets sessions with these options use the kernels. They run on the CPU.</summary>
    public static void AddTo(SessionOptions options) => OrtApi.AddDomain(options.DangerousGetHandle(), Operators.Value);

    private static nint Register()
    {
        var domain = OrtApi.CreateDomain(FunctionCall.Domain);
        foreach (var entry in Entries)
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
            op->_name = (byte*)Marshal.StringToCoTaskMemUTF8(entry.Name);
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
        private static nuint GetInputCount(CustomOp* op) => (nuint)EntryOf(op).InputCount;

        [UnmanagedCallersOnly]
        private static nuint GetOutputCount(CustomOp* op) => (nuint)EntryOf(op).Shapes.Length;

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
                var shapes = EntryOf(op).Shapes;
                for (var i = 0; i < shapes.Length; i++)
                {
                    if (shapes[i] >= 0)
                    {
                        OrtApi.InferLikeInput(context, i, shapes[i]);
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
