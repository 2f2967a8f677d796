// Measures models for coverage.py, which writes docs/coverage.md: one line of JSON for each.
//   coverage fixtures FOLDER          every export in a folder of fixtures, against autograd
using System.Text.Json;
using MacOnnx.Coverage;
using MacOnnx.Runtime.Tests.Reference;

if (args is not ["fixtures", var folder])
{
    Console.Error.WriteLine("Usage: coverage fixtures FOLDER");
    return 1;
}

foreach (var (model, file) in AutogradFixture.Find(folder))
{
    Console.WriteLine(JsonSerializer.Serialize(FixtureResult.Of(model, file)));
}

return 0;
