using System.Runtime.CompilerServices;

namespace MacOnnx.GraphRewriter.Tests.Support;

/// <summary>Verifies graphs after every pass in all tests.</summary>
internal static class VerifyPasses
{
    [ModuleInitializer]
    internal static void Enable() => PassRunner.Verifies = true;
}
