// Measures models for coverage.py, which writes docs/coverage.md: one line of JSON for each.
//   coverage fixtures FOLDER            every export in a folder of fixtures, against autograd
//   coverage published FILE OPTIONS     a published model, rewritten by options in JSON, on random data
//   coverage size FILE FOLDER           what a model costs before its first step; writes the package into the folder
//   coverage extract LIBRARY FOLDER     writes the ONNX files among a .NET library's resources
using System.Text.Json;
using MacOnnx.Coverage;
using MacOnnx.Runtime.Tests.Reference;

switch (args)
{
    case ["fixtures", var folder]:
        foreach (var (model, file) in AutogradFixture.Find(folder))
        {
            Console.WriteLine(JsonSerializer.Serialize(FixtureResult.Of(model, file)));
        }

        return 0;
    case ["published", var file, var options]:
        Console.WriteLine(JsonSerializer.Serialize(PublishedResult.Of(file, options)));
        return 0;
    case ["size", var file, var folder]:
        Console.WriteLine(JsonSerializer.Serialize(SizeResult.Of(file, folder)));
        return 0;
    case ["extract", var library, var folder]:
        PublishedResult.Extract(library, folder);
        return 0;
    default:
        Console.Error.WriteLine(
            "Usage: coverage fixtures FOLDER | published FILE OPTIONS | size FILE FOLDER | extract LIBRARY FOLDER"
        );
        return 1;
}
