namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>The reference data beside the repository; tests that need them skip where they are absent.</summary>
internal static class Shared
{
    public static string Folder(string name) => Repository.Shared(name);
}
