#!/usr/bin/env bash
# Checks that the core builds without std, for bare metal with 32 bits: no host, no 64-bit atomics.
# The standard libraries of such targets come from rustup, or are checked along from their source.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGETS=(thumbv7em-none-eabi riscv32imac-unknown-none-elf)
FEATURES=(--no-default-features --features raw,qcow2)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/no_std

check() { # check CARGO FLAG...
  local cargo=$1; shift
  for target in "${TARGETS[@]}"; do
    echo "sectora-core for $target"
    "$cargo" check -q "$@" --target "$target" -p sectora-core "${FEATURES[@]}"
  done
}

if command -v rustup >/dev/null && rustup target add "${TARGETS[@]}" >/dev/null 2>&1; then
  check cargo
else
  # Debian's compiler has the source of the libraries beside it; wasm/toolchain.sh installs it.
  [ -d /usr/lib/rustlib/src/rust/library ] || wasm/toolchain.sh >/dev/null
  export PATH=/usr/bin:$PATH RUSTC_BOOTSTRAP=1
  unset RUSTC RUSTDOC RUSTUP_TOOLCHAIN
  check /usr/bin/cargo -Z build-std=core,alloc
fi
