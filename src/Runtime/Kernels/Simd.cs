using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace MacOnnx.Runtime.Kernels;

/// <summary>The operations on vectors of floats that inner loops are made of, so that a loop is written once for all
/// widths.</summary>
/// <typeparam name="V">The vector.</typeparam>
internal unsafe interface ISimd<V>
    where V : struct
{
    /// <summary>Gets the number of floats in a vector.</summary>
    static abstract int Lanes { get; }

    static abstract V Load(float* p);

    /// <summary>Loads half a vector from each of two places.</summary>
    static abstract V LoadHalves(float* low, float* high);

    static abstract void Store(V v, float* p);

    static abstract V Splat(float x);

    static abstract V Add(V a, V b);

    static abstract V Subtract(V a, V b);

    /// <summary>Gives a b + c, in one rounding where the machine can.</summary>
    static abstract V MultiplyAdd(V a, V b, V c);

    static abstract V Max(V a, V b);

    /// <summary>Gives the elements of v where those of condition are positive, and 0 elsewhere.</summary>
    static abstract V IfPositive(V condition, V v);

    /// <summary>Gives the elements of v where a and b are equal, and 0 elsewhere.</summary>
    static abstract V IfEqual(V a, V b, V v);

    static abstract float Sum(V v);

    /// <summary>Gives the elements of a and b at even places, and those at odd places.</summary>
    static abstract (V Even, V Odd) Unzip(V a, V b);

    /// <summary>Gives a0, b0, a1, b1, ..., the first half and the second.</summary>
    static abstract (V Low, V High) Zip(V a, V b);
}

/// <summary>Which vectors a machine works with.</summary>
internal static class Simd
{
    [ThreadStatic]
    private static int t_forced;

    /// <summary>
    /// Gets or sets the width in bits that kernels made by this thread use: the widest that the machine computes with,
    /// unless a test has set another.
    /// </summary>
    public static int Width
    {
        get =>
            t_forced != 0 ? t_forced
            : Vector512.IsHardwareAccelerated ? 512
            : Vector256.IsHardwareAccelerated ? 256
            : 128;
        set => t_forced = value;
    }

    /// <summary>
    /// Gets whether there are 32 vector registers: a tile of three vectors by eight scalars needs 28.
    /// </summary>
    public static bool HasManyRegisters => !X86Base.IsSupported || Avx512F.VL.IsSupported;
}

internal readonly unsafe struct Simd512 : ISimd<Vector512<float>>
{
    public static int Lanes => Vector512<float>.Count;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(float* p) => Vector512.Load(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LoadHalves(float* low, float* high) =>
        Vector256.Load(low).ToVector512Unsafe().WithUpper(Vector256.Load(high));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector512<float> v, float* p) => Vector512.Store(v, p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Splat(float x) => Vector512.Create(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Add(Vector512<float> a, Vector512<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Subtract(Vector512<float> a, Vector512<float> b) => a - b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> MultiplyAdd(Vector512<float> a, Vector512<float> b, Vector512<float> c) =>
        Vector512.MultiplyAddEstimate(a, b, c);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Max(Vector512<float> a, Vector512<float> b) => Vector512.Max(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> IfPositive(Vector512<float> condition, Vector512<float> v) =>
        Vector512.GreaterThan(condition, Vector512<float>.Zero) & v;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> IfEqual(Vector512<float> a, Vector512<float> b, Vector512<float> v) =>
        Vector512.Equals(a, b) & v;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector512<float> v) => Vector512.Sum(v);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector512<float> Even, Vector512<float> Odd) Unzip(Vector512<float> a, Vector512<float> b)
    {
        if (Avx512F.IsSupported)
        {
            var even = Vector512.Create(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            return (Avx512F.PermuteVar16x32x2(a, even, b), Avx512F.PermuteVar16x32x2(a, even + Vector512<int>.One, b));
        }

        var (low, high) = (Simd256.Unzip(a.GetLower(), a.GetUpper()), Simd256.Unzip(b.GetLower(), b.GetUpper()));
        return (Vector512.Create(low.Even, high.Even), Vector512.Create(low.Odd, high.Odd));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector512<float> Low, Vector512<float> High) Zip(Vector512<float> a, Vector512<float> b)
    {
        if (Avx512F.IsSupported)
        {
            var low = Vector512.Create(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            return (Avx512F.PermuteVar16x32x2(a, low, b), Avx512F.PermuteVar16x32x2(a, low + Vector512.Create(8), b));
        }

        var (first, second) = (Simd256.Zip(a.GetLower(), b.GetLower()), Simd256.Zip(a.GetUpper(), b.GetUpper()));
        return (Vector512.Create(first.Low, first.High), Vector512.Create(second.Low, second.High));
    }
}

internal readonly unsafe struct Simd256 : ISimd<Vector256<float>>
{
    public static int Lanes => Vector256<float>.Count;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load(float* p) => Vector256.Load(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> LoadHalves(float* low, float* high) =>
        Vector128.Load(low).ToVector256Unsafe().WithUpper(Vector128.Load(high));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector256<float> v, float* p) => Vector256.Store(v, p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Splat(float x) => Vector256.Create(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Add(Vector256<float> a, Vector256<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Subtract(Vector256<float> a, Vector256<float> b) => a - b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> MultiplyAdd(Vector256<float> a, Vector256<float> b, Vector256<float> c) =>
        Vector256.MultiplyAddEstimate(a, b, c);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Max(Vector256<float> a, Vector256<float> b) => Vector256.Max(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> IfPositive(Vector256<float> condition, Vector256<float> v) =>
        Vector256.GreaterThan(condition, Vector256<float>.Zero) & v;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> IfEqual(Vector256<float> a, Vector256<float> b, Vector256<float> v) =>
        Vector256.Equals(a, b) & v;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector256<float> v) => Vector256.Sum(v);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector256<float> Even, Vector256<float> Odd) Unzip(Vector256<float> a, Vector256<float> b)
    {
        var (low, high) = (Simd128.Unzip(a.GetLower(), a.GetUpper()), Simd128.Unzip(b.GetLower(), b.GetUpper()));
        return (Vector256.Create(low.Even, high.Even), Vector256.Create(low.Odd, high.Odd));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector256<float> Low, Vector256<float> High) Zip(Vector256<float> a, Vector256<float> b)
    {
        var (first, second) = (Simd128.Zip(a.GetLower(), b.GetLower()), Simd128.Zip(a.GetUpper(), b.GetUpper()));
        return (Vector256.Create(first.Low, first.High), Vector256.Create(second.Low, second.High));
    }
}

internal readonly unsafe struct Simd128 : ISimd<Vector128<float>>
{
    public static int Lanes => Vector128<float>.Count;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Load(float* p) => Vector128.Load(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> LoadHalves(float* low, float* high) =>
        Vector64.Load(low).ToVector128Unsafe().WithUpper(Vector64.Load(high));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector128<float> v, float* p) => Vector128.Store(v, p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Splat(float x) => Vector128.Create(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Add(Vector128<float> a, Vector128<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Subtract(Vector128<float> a, Vector128<float> b) => a - b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> MultiplyAdd(Vector128<float> a, Vector128<float> b, Vector128<float> c) =>
        Vector128.MultiplyAddEstimate(a, b, c);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Max(Vector128<float> a, Vector128<float> b) => Vector128.Max(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> IfPositive(Vector128<float> condition, Vector128<float> v) =>
        Vector128.GreaterThan(condition, Vector128<float>.Zero) & v;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> IfEqual(Vector128<float> a, Vector128<float> b, Vector128<float> v) =>
        Vector128.Equals(a, b) & v;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector128<float> v) => Vector128.Sum(v);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Even, Vector128<float> Odd) Unzip(Vector128<float> a, Vector128<float> b) =>
        Sse.IsSupported ? (Sse.Shuffle(a, b, 0b10_00_10_00), Sse.Shuffle(a, b, 0b11_01_11_01))
        : AdvSimd.Arm64.IsSupported ? (AdvSimd.Arm64.UnzipEven(a, b), AdvSimd.Arm64.UnzipOdd(a, b))
        : (Vector128.Create(a[0], a[2], b[0], b[2]), Vector128.Create(a[1], a[3], b[1], b[3]));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Low, Vector128<float> High) Zip(Vector128<float> a, Vector128<float> b) =>
        Sse.IsSupported ? (Sse.UnpackLow(a, b), Sse.UnpackHigh(a, b))
        : AdvSimd.Arm64.IsSupported ? (AdvSimd.Arm64.ZipLow(a, b), AdvSimd.Arm64.ZipHigh(a, b))
        : (Vector128.Create(a[0], b[0], a[1], b[1]), Vector128.Create(a[2], b[2], a[3], b[3]));
}
