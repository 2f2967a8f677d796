using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace MacOnnx.GraphRewriter;

/// <summary>Turns ONNX Runtime's telemetry off, which is on by default and writes files and uses the network.</summary>
/// <remarks>
/// ONNX Runtime reads the process's native environment when it is first called, so this must come before. Everything
/// of MacOnnx that calls it uses this assembly first. <c>MACONNX_TELEMETRY=1</c> leaves ONNX Runtime's default.
/// </remarks>
internal static partial class Telemetry
{
    private const string Variable = "ORT_DISABLE_TELEMETRY";

    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "No later place is certain to be before ONNX Runtime's.")]
    internal static void Disable()
    {
        if (Environment.GetEnvironmentVariable("MACONNX_TELEMETRY") == "1")
        {
            return;
        }

        if (OperatingSystem.IsWindows())
        {
            Environment.SetEnvironmentVariable(Variable, "1");
        }
        else
        {
            // Elsewhere .NET keeps a copy of the environment, which native code does not see.
            _ = SetNative(Variable, "1", overwrite: 1);
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetNative(string name, string value, int overwrite);
}
