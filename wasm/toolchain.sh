#!/usr/bin/env bash
# Finds or makes a Rust toolchain with the target wasm32-unknown-unknown, and prints the line that
# selects it: eval "$(wasm/toolchain.sh)".
#
# 1. The rustc on PATH, where it has the target; rustup is asked to add it where it has not.
# 2. Else Debian's rustc-web and cargo-web, installed where this runs as root, with a standard
#    library that is built once from rust-web-src and kept under ~/.cache (about half a minute).
#
#   --route auto|installed|debian   only that way (default: auto)
set -euo pipefail

TARGET=wasm32-unknown-unknown
MINIMUM=1.90
CACHE=${SECTORA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sectora-wasm}
PACKAGES=(rustc-web cargo-web rust-web-src rust-web-llvm lld-22)
ROUTE=auto

while [ $# -gt 0 ]; do case $1 in
  --route) ROUTE=$2; shift 2 ;;
  *) printf 'usage: toolchain.sh [--route auto|installed|debian]\n' >&2; exit 2 ;;
esac; done

say() { printf 'toolchain: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

new_enough() { # new_enough RUSTC
  local version; version=$("$1" -V 2>/dev/null | cut -d' ' -f2) || return 1
  [ "$(printf '%s\n' "$MINIMUM" "$version" | sort -V | head -n1)" = "$MINIMUM" ]
}
has_target() { # has_target RUSTC: is a standard library for the target there?
  local dir; dir=$("$1" --print target-libdir --target "$TARGET" 2>/dev/null) || return 1
  compgen -G "$dir/libstd-*.rlib" >/dev/null
}

debian_complete() {
  [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && [ -e /usr/bin/rust-lld ] || return 1
  [ -d /usr/lib/rustlib/src/rust/library/vendor ] || return 1
  local count; count=$(dpkg-query -W -f='${Status}\n' rustc-web cargo-web rust-web-src 2>/dev/null |
    grep -c 'install ok installed' || true)
  [ "$count" = 3 ]
}
debian_install() {
  command -v apt-get >/dev/null || die "no $TARGET here: run 'rustup target add $TARGET'"
  [ "$(id -u)" = 0 ] || die "as root: apt-get install --no-install-recommends ${PACKAGES[*]}"
  say "installing ${PACKAGES[*]}"
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >&2
}

# A folder that looks like a toolchain with the target installed: plain cargo commands work with
# its bin first on PATH.
debian_toolchain() {
  local host key dir tmp lib id
  host=$(/usr/bin/rustc -vV | sed -n 's/^host: //p')
  key=$( { /usr/bin/rustc -vV; dpkg-query -W rustc-web rust-web-src; echo layout-1; } | sha256sum | cut -c1-12)
  dir=$CACHE/rust-$(/usr/bin/rustc -V | cut -d' ' -f2)-$key
  mkdir -p "$CACHE"
  exec 9>"$CACHE/.lock"; flock 9
  if [ ! -e "$dir/.complete" ]; then
    say "building the standard library for $TARGET, once: $dir"
    rm -rf "$dir"; tmp=$(mktemp -d "$CACHE/seed.XXXXXX"); mkdir -p "$tmp/src"
    printf '[package]\nname = "seed"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' >"$tmp/Cargo.toml"
    : >"$tmp/src/lib.rs"
    # Unstable features only for this; its dependencies come from the packaged sources, not from
    # the network, so that everybody gets the same.
    (cd "$tmp" && env -u RUSTC -u RUSTC_WRAPPER -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u RUSTUP_TOOLCHAIN \
        PATH=/usr/bin:"$PATH" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$tmp/target" \
        /usr/bin/cargo build -q --release --target "$TARGET" -Z build-std=std,panic_abort \
        --offline --config 'source.crates-io.replace-with="std-vendor"' \
        --config 'source.std-vendor.directory="/usr/lib/rustlib/src/rust/library/vendor"') >&2
    lib=$dir/lib/rustlib/$TARGET/lib; mkdir -p "$lib" "$dir/bin"
    cp "$tmp/target/$TARGET/release/deps/"*.rlib "$lib/"; rm -f "$lib"/libseed-*.rlib
    ln -s "/usr/lib/rustlib/$host" "$dir/lib/rustlib/$host"
    ln -s /usr/lib/rustlib/src "$dir/lib/rustlib/src"
    ln -s /usr/lib/rustlib/etc "$dir/lib/rustlib/etc"
    ln -s /usr/bin/cargo "$dir/bin/cargo"
    # A link alone would still take /usr as its sysroot. The line added to -vV makes cargo rebuild
    # what it has when this library is not the one it was built against.
    id=$(cat "$lib"/*.rlib | sha256sum | cut -c1-16)
    printf '#!/bin/sh\n[ "$*" = -vV ] && { /usr/bin/rustc -vV && echo "wasm-std: %s"; exit; }\nexec /usr/bin/rustc --sysroot=%s "$@"\n' "$id" "$dir" >"$dir/bin/rustc"
    printf '#!/bin/sh\nexec /usr/bin/rustdoc --sysroot=%s "$@"\n' "$dir" >"$dir/bin/rustdoc"
    chmod +x "$dir/bin/rustc" "$dir/bin/rustdoc"
    rm -rf "$tmp"; touch "$dir/.complete"
  fi
  exec 9>&-
  has_target "$dir/bin/rustc" || die "the standard library that was built is not found: remove $dir"
  say "$(/usr/bin/rustc -V) with $dir"
  printf 'unset RUSTC RUSTDOC RUSTUP_TOOLCHAIN\nexport PATH=%q:"$PATH"\n' "$dir/bin"
}

if [ "$ROUTE" != debian ] && command -v rustc >/dev/null && new_enough rustc; then
  if ! has_target rustc && command -v rustup >/dev/null; then
    rustup -q target add "$TARGET" >&2 || say "rustup could not add $TARGET"
  fi
  if has_target rustc; then
    say "$(rustc -V) on PATH"
    exit 0
  fi
fi
[ "$ROUTE" != installed ] || die "$TARGET is not installed: run 'rustup target add $TARGET'"
debian_complete || debian_install
debian_complete || die "Debian's Rust packages are incomplete"
new_enough /usr/bin/rustc || die "/usr/bin/rustc is older than $MINIMUM"
debian_toolchain
