//! Codec by byte builder, handshakes and transmission over a pipe in memory, hostile peers.
