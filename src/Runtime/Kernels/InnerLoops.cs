using System.Runtime.CompilerServices;

namespace MacOnnx.Runtime.Kernels;

/// <summary>A choice that the compiler makes for a loop.</summary>
internal interface IChoice
{
    static abstract bool Value { get; }
}

internal readonly struct Yes : IChoice
{
    public static bool Value => true;
}

internal readonly struct No : IChoice
{
    public static bool Value => false;
}

/// <summary>The inner loops of convolutions. All sums are kept in registers.</summary>
/// <remarks>
/// Every loop walks a list of taps. A tap is an offset, at which vectors of the input are read, and the numbers that
/// these are multiplied by.
/// </remarks>
/// <typeparam name="S">The operations on vectors.</typeparam>
/// <typeparam name="V">The vector.</typeparam>
/// <typeparam name="TSplit">Whether the halves of a vector come from two rows of the input, a distance
/// apart.</typeparam>
internal static unsafe class InnerLoops<S, V, TSplit>
    where S : struct, ISimd<V>
    where V : struct
    where TSplit : struct, IChoice
{
    /// <summary>The number of outputs of a tile.</summary>
    public const int Outputs = 8;

    /// <summary>
    /// Sums outer products of three vectors of the input and eight weights: output k gets start[k] + the sum over taps
    /// of input[offset] * weights[8 tap + k].
    /// </summary>
    /// <param name="x0">Where the first vector is read.</param>
    /// <param name="x1">Where the second vector is read.</param>
    /// <param name="x2">Where the third vector is read.</param>
    /// <param name="distance">From the first half of a vector to the second.</param>
    /// <param name="offsets">The offset of each tap.</param>
    /// <param name="taps">The number of taps.</param>
    /// <param name="weights">Eight numbers a tap.</param>
    /// <param name="start">Eight numbers to start from; null to add to what the outputs hold.</param>
    /// <param name="y">The first output's three vectors.</param>
    /// <param name="stride">From output to output.</param>
    /// <param name="outputs">How many outputs to write, 1 to 8.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Three(
        float* x0,
        float* x1,
        float* x2,
        nint distance,
        int* offsets,
        nint taps,
        float* weights,
        float* start,
        float* y,
        nint stride,
        int outputs
    )
    {
        V a0 = default,
            b0 = default,
            c0 = default,
            a1 = default,
            b1 = default,
            c1 = default,
            a2 = default,
            b2 = default,
            c2 = default,
            a3 = default,
            b3 = default,
            c3 = default,
            a4 = default,
            b4 = default,
            c4 = default,
            a5 = default,
            b5 = default,
            c5 = default,
            a6 = default,
            b6 = default,
            c6 = default,
            a7 = default,
            b7 = default,
            c7 = default;
        if (start != null)
        {
            a0 = b0 = c0 = S.Splat(start[0]);
            a1 = b1 = c1 = S.Splat(start[1]);
            a2 = b2 = c2 = S.Splat(start[2]);
            a3 = b3 = c3 = S.Splat(start[3]);
            a4 = b4 = c4 = S.Splat(start[4]);
            a5 = b5 = c5 = S.Splat(start[5]);
            a6 = b6 = c6 = S.Splat(start[6]);
            a7 = b7 = c7 = S.Splat(start[7]);
        }

        for (nint tap = 0; tap < taps; tap++, weights += Outputs)
        {
            nint at = offsets[tap];
            V u = Read(x0 + at, distance),
                v = Read(x1 + at, distance),
                w = Read(x2 + at, distance);
            var weight = S.Splat(weights[0]);
            a0 = S.MultiplyAdd(u, weight, a0);
            b0 = S.MultiplyAdd(v, weight, b0);
            c0 = S.MultiplyAdd(w, weight, c0);
            weight = S.Splat(weights[1]);
            a1 = S.MultiplyAdd(u, weight, a1);
            b1 = S.MultiplyAdd(v, weight, b1);
            c1 = S.MultiplyAdd(w, weight, c1);
            weight = S.Splat(weights[2]);
            a2 = S.MultiplyAdd(u, weight, a2);
            b2 = S.MultiplyAdd(v, weight, b2);
            c2 = S.MultiplyAdd(w, weight, c2);
            weight = S.Splat(weights[3]);
            a3 = S.MultiplyAdd(u, weight, a3);
            b3 = S.MultiplyAdd(v, weight, b3);
            c3 = S.MultiplyAdd(w, weight, c3);
            weight = S.Splat(weights[4]);
            a4 = S.MultiplyAdd(u, weight, a4);
            b4 = S.MultiplyAdd(v, weight, b4);
            c4 = S.MultiplyAdd(w, weight, c4);
            weight = S.Splat(weights[5]);
            a5 = S.MultiplyAdd(u, weight, a5);
            b5 = S.MultiplyAdd(v, weight, b5);
            c5 = S.MultiplyAdd(w, weight, c5);
            weight = S.Splat(weights[6]);
            a6 = S.MultiplyAdd(u, weight, a6);
            b6 = S.MultiplyAdd(v, weight, b6);
            c6 = S.MultiplyAdd(w, weight, c6);
            weight = S.Splat(weights[7]);
            a7 = S.MultiplyAdd(u, weight, a7);
            b7 = S.MultiplyAdd(v, weight, b7);
            c7 = S.MultiplyAdd(w, weight, c7);
        }

        var isSum = start == null;
        Write(y, a0, isSum);
        Write(y + S.Lanes, b0, isSum);
        Write(y + (2 * S.Lanes), c0, isSum);
        if (outputs <= 1)
        {
            return;
        }

        y += stride;
        Write(y, a1, isSum);
        Write(y + S.Lanes, b1, isSum);
        Write(y + (2 * S.Lanes), c1, isSum);
        if (outputs <= 2)
        {
            return;
        }

        y += stride;
        Write(y, a2, isSum);
        Write(y + S.Lanes, b2, isSum);
        Write(y + (2 * S.Lanes), c2, isSum);
        if (outputs <= 3)
        {
            return;
        }

        y += stride;
        Write(y, a3, isSum);
        Write(y + S.Lanes, b3, isSum);
        Write(y + (2 * S.Lanes), c3, isSum);
        if (outputs <= 4)
        {
            return;
        }

        y += stride;
        Write(y, a4, isSum);
        Write(y + S.Lanes, b4, isSum);
        Write(y + (2 * S.Lanes), c4, isSum);
        if (outputs <= 5)
        {
            return;
        }

        y += stride;
        Write(y, a5, isSum);
        Write(y + S.Lanes, b5, isSum);
        Write(y + (2 * S.Lanes), c5, isSum);
        if (outputs <= 6)
        {
            return;
        }

        y += stride;
        Write(y, a6, isSum);
        Write(y + S.Lanes, b6, isSum);
        Write(y + (2 * S.Lanes), c6, isSum);
        if (outputs <= 7)
        {
            return;
        }

        y += stride;
        Write(y, a7, isSum);
        Write(y + S.Lanes, b7, isSum);
        Write(y + (2 * S.Lanes), c7, isSum);
    }

    /// <summary>Adds to eight rows of sums, over all their columns: the outer products of the taps.</summary>
    /// <param name="x">Where the first column is read.</param>
    /// <param name="offsets">The offset of each tap.</param>
    /// <param name="taps">The number of taps.</param>
    /// <param name="weights">Eight numbers a tap.</param>
    /// <param name="sums">The first row.</param>
    /// <param name="columns">The columns of a row, a multiple of the vector's lanes.</param>
    public static void AddRows(float* x, int* offsets, nint taps, float* weights, float* sums, nint columns)
    {
        var j = (nint)0;
        if (Simd.HasManyRegisters)
        {
            for (; j + (3 * S.Lanes) <= columns; j += 3 * S.Lanes)
            {
                Three(
                    x + j,
                    x + j + S.Lanes,
                    x + j + (2 * S.Lanes),
                    0,
                    offsets,
                    taps,
                    weights,
                    null,
                    sums + j,
                    columns,
                    Outputs
                );
            }
        }

        for (; j < columns; j += S.Lanes)
        {
            One(x + j, 0, offsets, taps, weights, null, sums + j, columns, Outputs);
        }
    }

    /// <summary>Does for one vector what <see cref="Three"/> does for three.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void One(
        float* x0,
        nint distance,
        int* offsets,
        nint taps,
        float* weights,
        float* start,
        float* y,
        nint stride,
        int outputs
    )
    {
        V a0 = default,
            a1 = default,
            a2 = default,
            a3 = default,
            a4 = default,
            a5 = default,
            a6 = default,
            a7 = default;
        if (start != null)
        {
            a0 = S.Splat(start[0]);
            a1 = S.Splat(start[1]);
            a2 = S.Splat(start[2]);
            a3 = S.Splat(start[3]);
            a4 = S.Splat(start[4]);
            a5 = S.Splat(start[5]);
            a6 = S.Splat(start[6]);
            a7 = S.Splat(start[7]);
        }

        for (nint tap = 0; tap < taps; tap++, weights += Outputs)
        {
            nint at = offsets[tap];
            V u = Read(x0 + at, distance);
            var weight = S.Splat(weights[0]);
            a0 = S.MultiplyAdd(u, weight, a0);
            weight = S.Splat(weights[1]);
            a1 = S.MultiplyAdd(u, weight, a1);
            weight = S.Splat(weights[2]);
            a2 = S.MultiplyAdd(u, weight, a2);
            weight = S.Splat(weights[3]);
            a3 = S.MultiplyAdd(u, weight, a3);
            weight = S.Splat(weights[4]);
            a4 = S.MultiplyAdd(u, weight, a4);
            weight = S.Splat(weights[5]);
            a5 = S.MultiplyAdd(u, weight, a5);
            weight = S.Splat(weights[6]);
            a6 = S.MultiplyAdd(u, weight, a6);
            weight = S.Splat(weights[7]);
            a7 = S.MultiplyAdd(u, weight, a7);
        }

        var isSum = start == null;
        Write(y, a0, isSum);
        if (outputs <= 1)
        {
            return;
        }

        y += stride;
        Write(y, a1, isSum);
        if (outputs <= 2)
        {
            return;
        }

        y += stride;
        Write(y, a2, isSum);
        if (outputs <= 3)
        {
            return;
        }

        y += stride;
        Write(y, a3, isSum);
        if (outputs <= 4)
        {
            return;
        }

        y += stride;
        Write(y, a4, isSum);
        if (outputs <= 5)
        {
            return;
        }

        y += stride;
        Write(y, a5, isSum);
        if (outputs <= 6)
        {
            return;
        }

        y += stride;
        Write(y, a6, isSum);
        if (outputs <= 7)
        {
            return;
        }

        y += stride;
        Write(y, a7, isSum);
    }

    /// <summary>
    /// One output alone: four vectors of the input, read at places of a list, each start[0] + the sum over taps of
    /// input[offset] * weights[tap].
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Four(
        float* x,
        int* places,
        nint distance,
        int* offsets,
        nint taps,
        float* weights,
        float* start,
        float* y
    )
    {
        float* x0 = x + places[0],
            x1 = x + places[1],
            x2 = x + places[2],
            x3 = x + places[3];
        V a = S.Splat(*start),
            b = a,
            c = a,
            d = a;
        for (nint tap = 0; tap < taps; tap++)
        {
            nint at = offsets[tap];
            var weight = S.Splat(weights[tap]);
            a = S.MultiplyAdd(Read(x0 + at, distance), weight, a);
            b = S.MultiplyAdd(Read(x1 + at, distance), weight, b);
            c = S.MultiplyAdd(Read(x2 + at, distance), weight, c);
            d = S.MultiplyAdd(Read(x3 + at, distance), weight, d);
        }

        S.Store(a, y);
        S.Store(b, y + S.Lanes);
        S.Store(c, y + (2 * S.Lanes));
        S.Store(d, y + (3 * S.Lanes));
    }

    /// <summary>Does for one vector what <see cref="Four"/> does for four.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Alone(float* x, nint distance, int* offsets, nint taps, float* weights, float* start, float* y)
    {
        var a = S.Splat(*start);
        for (nint tap = 0; tap < taps; tap++)
        {
            a = S.MultiplyAdd(Read(x + offsets[tap], distance), S.Splat(weights[tap]), a);
        }

        S.Store(a, y);
    }

    /// <summary>Nine taps' sums of products: sums[tap] += x[offset + i] * d[i], as vectors.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void NineDots(float* x, int* offsets, float* d, nint count, float* sums)
    {
        float* x0 = x + offsets[0],
            x1 = x + offsets[1],
            x2 = x + offsets[2],
            x3 = x + offsets[3],
            x4 = x + offsets[4],
            x5 = x + offsets[5],
            x6 = x + offsets[6],
            x7 = x + offsets[7],
            x8 = x + offsets[8];
        V s0 = S.Load(sums + (0 * S.Lanes)),
            s1 = S.Load(sums + (1 * S.Lanes)),
            s2 = S.Load(sums + (2 * S.Lanes)),
            s3 = S.Load(sums + (3 * S.Lanes)),
            s4 = S.Load(sums + (4 * S.Lanes)),
            s5 = S.Load(sums + (5 * S.Lanes)),
            s6 = S.Load(sums + (6 * S.Lanes)),
            s7 = S.Load(sums + (7 * S.Lanes)),
            s8 = S.Load(sums + (8 * S.Lanes));
        for (nint i = 0; i < count; i += S.Lanes)
        {
            var v = S.Load(d + i);
            s0 = S.MultiplyAdd(S.Load(x0 + i), v, s0);
            s1 = S.MultiplyAdd(S.Load(x1 + i), v, s1);
            s2 = S.MultiplyAdd(S.Load(x2 + i), v, s2);
            s3 = S.MultiplyAdd(S.Load(x3 + i), v, s3);
            s4 = S.MultiplyAdd(S.Load(x4 + i), v, s4);
            s5 = S.MultiplyAdd(S.Load(x5 + i), v, s5);
            s6 = S.MultiplyAdd(S.Load(x6 + i), v, s6);
            s7 = S.MultiplyAdd(S.Load(x7 + i), v, s7);
            s8 = S.MultiplyAdd(S.Load(x8 + i), v, s8);
        }

        S.Store(s0, sums + (0 * S.Lanes));
        S.Store(s1, sums + (1 * S.Lanes));
        S.Store(s2, sums + (2 * S.Lanes));
        S.Store(s3, sums + (3 * S.Lanes));
        S.Store(s4, sums + (4 * S.Lanes));
        S.Store(s5, sums + (5 * S.Lanes));
        S.Store(s6, sums + (6 * S.Lanes));
        S.Store(s7, sums + (7 * S.Lanes));
        S.Store(s8, sums + (8 * S.Lanes));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Read(float* p, nint distance) => TSplit.Value ? S.LoadHalves(p, p + distance) : S.Load(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Write(float* y, V value, bool isSum) => S.Store(isSum ? S.Add(S.Load(y), value) : value, y);
}
