//! Numbers of one to ten bytes, zigzag.

pub(crate) fn write(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

pub(crate) fn length(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

/// The number at `at`, which moves behind it. None: the bytes end in it, or it has too many.
#[inline]
pub(crate) fn read(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, -1, 63, 64, -64, -65, 300, i64::from(i32::MAX), i64::MAX, i64::MIN] {
            let mut bytes = vec![];
            write(value, &mut bytes);
            assert_eq!(bytes.len(), length(value), "{value}");
            let mut at = 0;
            assert_eq!(read(&bytes, &mut at), Some(value));
            assert_eq!(at, bytes.len());
            assert_eq!(read(&bytes[..bytes.len() - 1], &mut 0), None, "{value}");
        }
    }
}
