using System.Runtime.CompilerServices;

namespace MacOnnx.Runtime.Kernels;

/// <summary>Brings matrices into panels, and keeps the offsets that walk them.</summary>
internal sealed unsafe class PanelPlan
{
    private int[] _offsets = [];
    private (long Depth, int Lanes) _shape;

    /// <summary>Packs a matrix; what it gives is valid until the kernel's call ends.</summary>
    /// <param name="matrix">The matrix, [depth, columns], or [columns, depth] where it is transposed.</param>
    /// <param name="depth">The number of products in a sum.</param>
    /// <param name="columns">The number of sums.</param>
    /// <param name="isTransposed">Whether the columns are the first axis.</param>
    public Panels Pack(float* matrix, long depth, long columns, bool isTransposed)
    {
        var lanes = Simd.Width / 32;
        var wide = Simd.HasManyRegisters ? 3 * lanes : lanes;
        if (_shape != (depth, lanes))
        {
            _offsets = GC.AllocateUninitializedArray<int>(checked((int)(2 * depth)), pinned: true);
            for (var k = 0; k < depth; k++)
            {
                (_offsets[k], _offsets[depth + k]) = (checked(k * wide), k * lanes);
            }

            _shape = (depth, lanes);
        }

        var padded = (columns + lanes - 1) / lanes * lanes;
        var panels = new Panels
        {
            Depth = (nint)depth,
            Padded = padded,
            Data = Scratch.OfCall(checked(padded * depth)),
            WideOffsets = (int*)Unsafe.AsPointer(ref _offsets[0]),
            Offsets = (int*)Unsafe.AsPointer(ref _offsets[depth]),
            Wide = wide,
        };
        var column = 0L;
        while (column < padded)
        {
            var width = column + wide <= padded ? wide : lanes;
            var panel = panels.Data + (column * depth);
            var given = Math.Min(width, columns - column);
            if (given < width)
            {
                new Span<float>(panel, checked((int)(width * depth))).Clear();
            }

            if (isTransposed)
            {
                Planes.Transpose(matrix + (column * depth), depth, given, panel, width, depth);
            }
            else
            {
                for (var k = 0L; k < depth; k++)
                {
                    Unsafe.CopyBlockUnaligned(
                        panel + (k * width),
                        matrix + (k * columns) + column,
                        (uint)(given * sizeof(float))
                    );
                }
            }

            column += width;
        }

        return panels;
    }
}

/// <summary>
/// A matrix [depth, columns] for products with few rows: panels of three vectors of columns, then of one, the last one
/// padded with zeros.
/// </summary>
internal unsafe struct Panels
{
    /// <summary>The number of rows in a tile of the left factor.</summary>
    public const int Rows = 8;

    public float* Data;
    public int* WideOffsets,
        Offsets;
    public nint Depth;

    /// <summary>The number of columns with the padding: what results have from row to row.</summary>
    public long Padded;
    public int Wide;

    /// <summary>Multiplies rows with the matrix.</summary>
    /// <param name="tiles">The rows, in tiles [depth, 8].</param>
    /// <param name="count">The number of rows.</param>
    /// <param name="result">The products, [count, <see cref="Padded"/>].</param>
    /// <param name="adds">Whether to add to what the result holds.</param>
    public readonly void Multiply<S, V>(float* tiles, long count, float* result, bool adds)
        where S : struct, ISimd<V>
        where V : struct
    {
        var zeros = stackalloc float[Rows];
        new Span<float>(zeros, Rows).Clear();
        var start = adds ? null : zeros;
        var column = 0L;
        while (column < Padded)
        {
            var panel = Data + (column * Depth);
            var isWide = Wide > S.Lanes && column + Wide <= Padded;
            for (var row = 0L; row < count; row += Rows)
            {
                float* tile = tiles + (row * Depth),
                    y = result + (row * Padded) + column;
                var rows = (int)Math.Min(Rows, count - row);
                if (isWide)
                {
                    InnerLoops<S, V, No>.Three(
                        panel,
                        panel + S.Lanes,
                        panel + (2 * S.Lanes),
                        0,
                        WideOffsets,
                        Depth,
                        tile,
                        start,
                        y,
                        (nint)Padded,
                        rows
                    );
                }
                else
                {
                    InnerLoops<S, V, No>.One(panel, 0, Offsets, Depth, tile, start, y, (nint)Padded, rows);
                }
            }

            column += isWide ? Wide : S.Lanes;
        }
    }
}
