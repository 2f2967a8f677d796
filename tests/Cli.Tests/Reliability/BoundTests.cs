namespace MacOnnx.Cli.Tests.Reliability;

/// <summary>What a small file says is large costs little before it is used.</summary>
public sealed class BoundTests
{
    private const long MostMemory = 300L << 20;

    /// <summary>
    /// Attention in 65,536 x 128 tokens of 96 numbers, 3.2 GB: to follow it takes no memory for each of them, neither
    /// here nor in ONNX Runtime.
    /// </summary>
    [Fact]
    public async Task FollowingAttentionTakesNoMemoryForElements()
    {
        var memory = await Child.Memory(
            "inspect",
            Repository.Models("chargpt.onnx"),
            "--dim",
            "batch=65536",
            "--dim",
            "sequence=128"
        );
        Assert.InRange(memory, 1, MostMemory);
    }
}
