//! Refcount blocks: entries of 1 to 64 bits (section "Host cluster management").

/// The widest count that `order` (log2 of the width in bits) can hold.
pub(super) fn max(order: u32) -> u64 {
    match order {
        6 => u64::MAX,
        order => (1 << (1u64 << order)) - 1,
    }
}

/// The count at `index` of a block's bytes.
pub(super) fn get(bytes: &[u8], index: usize, order: u32) -> u64 {
    match order {
        0..3 => {
            let (at, shift, mask) = sub_byte(index, order);
            u64::from((bytes[at] >> shift) & mask)
        }
        _ => {
            let width = 1usize << (order - 3);
            bytes[index * width..][..width].iter().fold(0, |n, b| n << 8 | u64::from(*b))
        }
    }
}

/// Sets the count at `index`; `value` must not exceed [`max`].
pub(super) fn set(bytes: &mut [u8], index: usize, order: u32, value: u64) {
    match order {
        0..3 => {
            let (at, shift, mask) = sub_byte(index, order);
            bytes[at] = bytes[at] & !(mask << shift) | (value.to_le_bytes()[0] & mask) << shift;
        }
        _ => {
            let width = 1usize << (order - 3);
            bytes[index * width..][..width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
        }
    }
}

/// Byte, shift and mask of an entry narrower than a byte: bit 0 is the least significant.
fn sub_byte(index: usize, order: u32) -> (usize, u32, u8) {
    let per_byte = 8usize >> order;
    // At most 7: fits.
    let shift = ((index % per_byte) << order) as u32;
    (index / per_byte, shift, max(order).to_le_bytes()[0])
}

/// So many entries fit into `len` bytes.
pub(super) fn entries(len: usize, order: u32) -> usize {
    (len * 8) >> order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_width_keep_to_themselves() {
        for order in 0..=6 {
            let mut bytes = [0u8; 64];
            let n = entries(bytes.len(), order);
            assert_eq!(n << order, 512);
            for i in 0..n {
                let value = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & max(order);
                set(&mut bytes, i, order, value);
            }
            for i in 0..n {
                let value = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & max(order);
                assert_eq!(get(&bytes, i, order), value, "order {order}, entry {i}");
            }
        }
    }

    #[test]
    fn sub_byte_entries_begin_at_the_least_significant_bit() {
        let mut bytes = [0u8; 1];
        set(&mut bytes, 0, 0, 1);
        set(&mut bytes, 3, 1, 2);
        assert_eq!(bytes[0], 0b1000_0001);
    }
}
