using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace MacOnnx.Runtime.Kernels;

/// <summary>Copies of planes of a tensor in the layouts that inner loops read.</summary>
internal static unsafe class Planes
{
    /// <summary>
    /// Copies the rows h0, h0 + stepH, ... and of each the columns w0, w0 + stepW, ... of a plane; zeros where these
    /// lie outside.
    /// </summary>
    public static void Copy(
        float* source,
        long height,
        long width,
        (long Row, long Column) from,
        (long Row, long Column) step,
        (long Rows, long Columns) size,
        float* target
    )
    {
        var left = from.Column < 0 ? Math.Min((step.Column - 1 - from.Column) / step.Column, size.Columns) : 0;
        var right =
            width <= from.Column
                ? left
                : Math.Clamp((width - from.Column + step.Column - 1) / step.Column, left, size.Columns);
        for (var r = 0L; r < size.Rows; r++, target += size.Columns)
        {
            var row = from.Row + (r * step.Row);
            if (row < 0 || row >= height)
            {
                new Span<float>(target, (int)size.Columns).Clear();
                continue;
            }

            for (var i = 0L; i < left; i++)
            {
                target[i] = 0;
            }

            for (var i = right; i < size.Columns; i++)
            {
                target[i] = 0;
            }

            var start = (row * width) + from.Column;
            if (step.Column == 1)
            {
                VectorMath.Copy(source + start + left, target + left, right - left);
            }
            else
            {
                Every(source + start + (left * step.Column), step.Column, target + left, right - left);
            }
        }
    }

    /// <summary>
    /// Puts the channels of a plane last: rows from one on, zeros where rows and columns lie outside.
    /// </summary>
    /// <param name="source">The first channel's plane.</param>
    /// <param name="channels">The number of channels.</param>
    /// <param name="height">Rows of a plane.</param>
    /// <param name="width">Columns of a plane.</param>
    /// <param name="from">The first row and column of the copy.</param>
    /// <param name="size">Rows and columns of the copy.</param>
    /// <param name="target">The copy, [rows, columns, stride]; what lies behind the channels stays.</param>
    /// <param name="stride">From column to column of the copy.</param>
    public static void ChannelsLast(
        float* source,
        long channels,
        long height,
        long width,
        (long Row, long Column) from,
        (long Rows, long Columns) size,
        float* target,
        long stride
    )
    {
        var left = Math.Clamp(-from.Column, 0, size.Columns);
        var right = Math.Clamp(width - from.Column, left, size.Columns);
        var plane = height * width;
        for (var r = 0L; r < size.Rows; r++, target += size.Columns * stride)
        {
            var row = from.Row + r;
            if (row < 0 || row >= height)
            {
                new Span<float>(target, (int)(size.Columns * stride)).Clear();
                continue;
            }

            new Span<float>(target, (int)(left * stride)).Clear();
            new Span<float>(target + (right * stride), (int)((size.Columns - right) * stride)).Clear();
            Transpose(
                source + (row * width) + from.Column + left,
                plane,
                channels,
                target + (left * stride),
                stride,
                right - left
            );
        }
    }

    /// <summary>Gives rows of even and odd elements as one row of both.</summary>
    public static void Interleave(float* even, float* odd, float* target, long count)
    {
        var i = 0L;
        for (; i + 8 <= count; i += 8)
        {
            var (e, o) = (Vector128.Load(even + (i / 2)), Vector128.Load(odd + (i / 2)));
            var (low, high) = Simd128.Zip(e, o);
            low.Store(target + i);
            high.Store(target + i + 4);
        }

        for (; i < count; i++)
        {
            target[i] = (i % 2 == 0 ? even : odd)[i / 2];
        }
    }

    /// <summary>Writes rows as columns: element i of row k goes to place i * stride + k.</summary>
    public static void Transpose(float* rows, long rowStride, long count, float* target, long stride, long length)
    {
        var k = 0L;
        for (; k + 4 <= count; k += 4)
        {
            float* r0 = rows + (k * rowStride),
                r1 = r0 + rowStride,
                r2 = r1 + rowStride,
                r3 = r2 + rowStride,
                to = target + k;
            var i = 0L;
            for (; i + 4 <= length; i += 4, to += 4 * stride)
            {
                Vector128<float> a = Vector128.Load(r0 + i),
                    b = Vector128.Load(r1 + i),
                    c = Vector128.Load(r2 + i),
                    d = Vector128.Load(r3 + i);
                var (abLow, abHigh) = Simd128.Zip(a, b);
                var (cdLow, cdHigh) = Simd128.Zip(c, d);
                Vector128<double> ab = abLow.AsDouble(),
                    cd = cdLow.AsDouble();
                ZipLow(ab, cd).AsSingle().Store(to);
                ZipHigh(ab, cd).AsSingle().Store(to + stride);
                (ab, cd) = (abHigh.AsDouble(), cdHigh.AsDouble());
                ZipLow(ab, cd).AsSingle().Store(to + (2 * stride));
                ZipHigh(ab, cd).AsSingle().Store(to + (3 * stride));
            }

            for (; i < length; i++, to += stride)
            {
                (to[0], to[1], to[2], to[3]) = (r0[i], r1[i], r2[i], r3[i]);
            }
        }

        for (; k < count; k++)
        {
            float* row = rows + (k * rowStride),
                to = target + k;
            for (var i = 0L; i < length; i++, to += stride)
            {
                *to = row[i];
            }
        }
    }

    private static void Every(float* source, long step, float* target, long count)
    {
        var i = 0L;
        if (step == 2)
        {
            // The last vector would read one element beyond those that are wanted.
            for (; i + 4 < count; i += 4)
            {
                Simd128
                    .Unzip(Vector128.Load(source + (2 * i)), Vector128.Load(source + (2 * i) + 4))
                    .Even.Store(target + i);
            }
        }

        for (; i < count; i++)
        {
            target[i] = source[i * step];
        }
    }

    private static Vector128<double> ZipLow(Vector128<double> a, Vector128<double> b) =>
        Sse2.IsSupported ? Sse2.UnpackLow(a, b)
        : AdvSimd.Arm64.IsSupported ? AdvSimd.Arm64.ZipLow(a, b)
        : Vector128.Create(a[0], b[0]);

    private static Vector128<double> ZipHigh(Vector128<double> a, Vector128<double> b) =>
        Sse2.IsSupported ? Sse2.UnpackHigh(a, b)
        : AdvSimd.Arm64.IsSupported ? AdvSimd.Arm64.ZipHigh(a, b)
        : Vector128.Create(a[1], b[1]);
}
