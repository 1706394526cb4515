//! Which versions of the protocol understand each other.

use crate::v1::ProtocolVersion;

/// What this program speaks. The minor version counts up with each addition, the major one with each break.
pub const PROTOCOL: ProtocolVersion = ProtocolVersion { major: 2, minor: 0 };

/// Minor versions apart that still work together: a rolling upgrade goes from one to the next.
const MINOR_DISTANCE: u32 = 1;

/// # Errors
/// Why a peer with that version is refused, for the people who run it.
pub fn check_version(theirs: ProtocolVersion) -> Result<(), String> {
    let ProtocolVersion { major, minor } = theirs;
    let is_near = minor.abs_diff(PROTOCOL.minor) <= MINOR_DISTANCE;
    if major == PROTOCOL.major && is_near {
        return Ok(());
    }
    Err(format!(
        "it speaks version {major}.{minor} of the protocol, and this side {}.{}: run versions of Weir that are at most \
         one minor version apart",
        PROTOCOL.major, PROTOCOL.minor
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_work_together() {
        let ProtocolVersion { major, minor } = PROTOCOL;
        assert!(check_version(PROTOCOL).is_ok());
        assert!(check_version(ProtocolVersion { major, minor: minor + 1 }).is_ok());
        let refused = check_version(ProtocolVersion { major, minor: minor + 2 }).unwrap_err();
        assert!(refused.contains(&format!("{major}.{}", minor + 2)), "{refused}");
        assert!(check_version(ProtocolVersion { major: major + 1, minor }).is_err());
    }
}
