#!/usr/bin/env bash
# Builds the benchmarks and runs them: benchmarks/run.sh [mlp] [lenet] [resnet20] [encoder] [lstm]   (all without arguments)
# Needs an x86-64 Linux with gcc and python3. See README.md for the settings.
set -euo pipefail
cd "$(dirname "$0")"
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1
dotnet build Benchmarks.csproj -c Release -v q --nologo
out=$(cd ../artifacts/bin/Benchmarks/release_linux-x64 && pwd)
# TorchSharp is built with gcc 13; Debian 12's libstdc++ lacks one function of that version.
python3 TorchBaseline/weaken_version.py "$out/libLibTorchSharp.so" GLIBCXX_3.4.32
gcc -shared -fPIC -o "$out/libstdcxx_stub.so" TorchBaseline/libstdcxx_stub.c
# Keep freed memory: by default large tensors are mapped and unmapped at every step, which makes libtorch several times slower.
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=16000000000 MALLOC_TOP_PAD_=268435456
LD_LIBRARY_PATH="$out" LD_PRELOAD="$out/libstdcxx_stub.so" dotnet "$out/benchmarks.dll" "$@"
