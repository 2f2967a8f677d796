using System.Globalization;
using System.Runtime.InteropServices;
using CsvHelper;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>
/// Reads a table of numbers as the arrays of one model; <see cref="Dataset"/> says how columns and arrays belong
/// together.
/// </summary>
internal static class CsvFile
{
    private static readonly CsvReaderOptions Options = new()
    {
        HasHeader = false, // Whether there is one is seen from its fields.
        TrackLineNumbers = true,
        TrimWhitespace = true,
        AllowLineBreaksInQuotes = false,
        MaxRecordSize = 1 << 24,
        MalformedData = CsvMalformedDataHandling.Throw,
    };

    /// <summary>Gives [rows, columns] for each spec: int64 for integer types, double for all others.</summary>
    /// <param name="path">The file.</param>
    /// <param name="specs">The model's inputs, and its target last.</param>
    public static Dictionary<string, Tensor> Read(string path, IReadOnlyList<InputSpec> specs) =>
        InputFile.Read(
            path,
            "CSV file",
            stream =>
            {
                try
                {
                    using var csv = CsvReader.Create(stream, Options, leaveOpen: true);
                    return Read(csv, specs, path);
                }
                catch (CsvFormatException e)
                {
                    throw new InvalidDataException(e.Message, e);
                }
            }
        );

    private static Dictionary<string, Tensor> Read(CsvReader csv, IReadOnlyList<InputSpec> specs, string path)
    {
        if (!csv.Read())
        {
            throw new InvalidDataException("it is empty");
        }

        var width = csv.FieldCount;
        var first = Enumerable.Range(0, width).Select(csv.GetString).ToArray();
        var header = IsHeader(first) ? first : null;
        var columns = Assign(header, width, specs);
        DatasetFile.RequireAll(path, [.. specs.Where((_, i) => columns[i].Count == 0)], header ?? []);
        var integers = specs.Select(s => !s.Type.IsFloatingPoint()).ToArray();
        var values = specs.Select(_ => new List<long>()).ToArray(); // Doubles as their bits.
        if (header is not null && !csv.Read())
        {
            throw new InvalidDataException("it has a header but no rows");
        }

        do
        {
            if (csv.FieldCount != width)
            {
                throw new InvalidDataException(
                    $"line {csv.LineNumber} has {csv.FieldCount} columns, the first line {width}"
                );
            }

            for (var i = 0; i < specs.Count; i++)
            {
                foreach (var column in columns[i])
                {
                    values[i]
                        .Add(
                            integers[i]
                                ? Integer(csv, header, column)
                                : BitConverter.DoubleToInt64Bits(Number(csv, header, column))
                        );
                }

                // Half the most a tensor may hold, as the list doubles.
                if (values[i].Count > Array.MaxLength / 16)
                {
                    throw new InvalidDataException(
                        $"line {csv.LineNumber}: the table is too large; make it an npz file"
                    );
                }
            }
        } while (csv.Read());

        var arrays = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        for (var i = 0; i < specs.Count; i++)
        {
            var data = MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(values[i])).ToArray();
            var type = integers[i] ? ElementType.Int64 : ElementType.Double;
            arrays.Add(specs[i].Name, new Tensor(type, [values[i].Count / columns[i].Count, columns[i].Count], data));
        }

        return arrays;
    }

    /// <summary>
    /// Whether the first line names columns: texts, and perhaps numbers such as 0, 1, 2. A line of data with one bad
    /// field does not look so.
    /// </summary>
    private static bool IsHeader(string[] fields)
    {
        return fields.Any(IsText) && fields.All(f => IsText(f) || (f.Length > 0 && f.All(char.IsAsciiDigit)));

        static bool IsText(string field) =>
            field.Any(char.IsLetter) && !double.TryParse(field, CultureInfo.InvariantCulture, out _);
    }

    /// <summary>Gives the columns of each spec; none where the table has none for it.</summary>
    private static List<int>[] Assign(string[]? header, int width, IReadOnlyList<InputSpec> specs)
    {
        var columns = specs.Select(s => Named(header, s.Name)).ToArray();
        var left = Enumerable.Range(0, width).Except(columns.SelectMany(c => c)).ToList();
        if (specs.Count > 1 && columns[^1].Count == 0 && left.Count > 0)
        {
            var label = Array.IndexOf(header ?? [], "label");
            var target = left.Contains(label) ? label : left[^1];
            columns[^1].Add(target);
            left.Remove(target);
        }

        // One input without columns of its name takes all that is left.
        if (specs.Count <= 2 && columns[0].Count == 0)
        {
            columns[0].AddRange(left);
        }

        return columns;
    }

    private static List<int> Named(string[]? header, string name)
    {
        var columns = new List<int>();
        if (header is not null)
        {
            var at = Array.IndexOf(header, name);
            if (at >= 0)
            {
                columns.Add(at);
                return columns;
            }

            var places = header.Select((h, i) => (h, i)).ToLookup(p => p.h, p => p.i, StringComparer.Ordinal);
            for (var k = 0; places[$"{name}_{k}"].Any(); k++)
            {
                columns.Add(places[$"{name}_{k}"].First());
            }
        }

        return columns;
    }

    private static double Number(CsvReader csv, string[]? header, int column) =>
        csv.TryParse<double>(column, out var value) && double.IsFinite(value)
            ? value
            : throw Bad(csv, header, column, "a number");

    private static long Integer(CsvReader csv, string[]? header, int column)
    {
        // "3.0" is an integer too; doubles hold integers exactly up to 2^53.
        if (csv.TryParse<long>(column, out var integer))
        {
            return integer;
        }

        var value = Number(csv, header, column);
        return double.IsInteger(value) && Math.Abs(value) <= 1L << 53
            ? (long)value
            : throw Bad(csv, header, column, "an integer");
    }

    private static InvalidDataException Bad(CsvReader csv, string[]? header, int column, string wanted)
    {
        var name = header is null ? string.Empty : $" ('{header[column]}')";
        var text = csv.GetString(column);
        return new InvalidDataException(
            string.Create(
                CultureInfo.InvariantCulture,
                $"line {csv.LineNumber}, column {column + 1}{name}: "
                    + $"'{(text.Length > 40 ? text[..40] + "..." : text)}' is not {wanted}"
            )
        );
    }
}
