//! Who is at the other end, out of what `/net/peer/con` and `/net/peer/lis` tell.

/// The peer of an event, `{"addr": ..., "peer": {...}}`: nothing nests in it.
pub fn of(event: &str) -> Option<&str> {
    let found = &event[event.find("\"peer\"")?..];
    let found = &found[found.find('{')?..];
    Some(&found[..=found.find('}')?])
}
