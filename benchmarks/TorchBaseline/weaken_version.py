#!/usr/bin/env python3
"""Makes a shared library's need for a symbol version optional: weaken_version.py LIBRARY VERSION

The loader refuses a library that needs a version which the system lacks, unless the need is marked weak. Edits a 64-bit
little-endian ELF file in place; run again, it changes nothing.
"""

import struct
import sys
from pathlib import Path

SECTION_TYPE_VERNEED = 0x6FFFFFFE
FLAG_WEAK = 2


def sections(elf):
    """(type, file offset, linked section, number of entries) of every section."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    for start in range(table, table + size * count, size):
        _, kind, _, _, offset, _, link, info = struct.unpack_from("<IIQQQQII", elf, start)
        yield kind, offset, link, info


def weaken(elf, version):
    """Marks the needs for `version` weak; returns how many there are."""
    if elf[:6] != b"\x7fELF\x02\x01":
        sys.exit("not a 64-bit little-endian ELF file")
    table = list(sections(elf))
    found = 0
    for kind, library, link, libraries in table:
        if kind != SECTION_TYPE_VERNEED:
            continue
        names = table[link][1]
        for _ in range(libraries):
            _, needs, _, first, next_library = struct.unpack_from("<HHIII", elf, library)
            need = library + first
            for _ in range(needs):
                _, flags, _, name, next_need = struct.unpack_from("<IHHII", elf, need)
                if elf.startswith(version.encode() + b"\0", names + name):
                    struct.pack_into("<H", elf, need + 4, flags | FLAG_WEAK)
                    found += 1
                need += next_need
            library += next_library
    return found


if __name__ == "__main__":
    path, wanted = Path(sys.argv[1]), sys.argv[2]
    content = bytearray(path.read_bytes())
    if weaken(content, wanted) == 0:
        sys.exit(f"{path.name} does not need {wanted}")
    path.write_bytes(content)
