#!/usr/bin/env bash
# Makes what is missing, builds the benchmarks and prints their table:
#   benchmarks/run.sh [mlp] [lenet] [resnet20] [encoder] [lstm] ... [--one-thread] [--no-torch]     (all models without names)
# Needs an x86-64 Linux with gcc and python3; and once, for the models, Debian's python3-torch and others. See README.md.
set -euo pipefail
cd "$(dirname "$0")"
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1
models=../artifacts/bench-models
missing() { echo "$0: $1" >&2; exit 1; }
for tool in dotnet gcc python3; do
  command -v $tool >/dev/null || missing "$tool is not installed."
done
for model in mlp-784-512-512-10 lenet resnet20 encoder; do
  [ -f "$models/$model.onnx" ] && continue
  /usr/bin/python3 -c 'import onnx, torch, torchvision' 2>/dev/null ||
    missing "$models/$model.onnx is made with python3-torch, python3-torchvision and python3-onnx: apt-get install them."
  /usr/bin/python3 export_models.py "$models" >&2
  break
done
dotnet build Benchmarks.csproj -c Release -v q --nologo >&2
out=$(cd ../artifacts/bin/Benchmarks/release_linux-x64 && pwd)
# TorchSharp is built with gcc 13; Debian 12's libstdc++ lacks one function of that version.
python3 TorchBaseline/weaken_version.py "$out/libLibTorchSharp.so" GLIBCXX_3.4.32 >&2
gcc -shared -fPIC -o "$out/libstdcxx_stub.so" TorchBaseline/libstdcxx_stub.c
# Keep freed memory: by default large tensors are mapped and unmapped at every step, which makes libtorch several times
# slower.
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=16000000000 MALLOC_TOP_PAD_=268435456
LD_LIBRARY_PATH="$out" LD_PRELOAD="$out/libstdcxx_stub.so" dotnet "$out/benchmarks.dll" "$@"
