//! Who this process is, so that a later life of it can tell that it is dead.
//!
//! An owner's name is `name@boot/namespace/pid/start`: the machine's boot, the process namespace, the
//! process and the moment it started. A process that shares boot and namespace with a recorded owner can see
//! whether that owner still lives; if not, its shards need not wait for the lease to run out.

use std::fs;

/// The name under which this process owns shards.
#[must_use]
pub fn own(name: &str) -> String {
    let pid = std::process::id();
    format!(
        "{name}@{}/{}/{pid}/{}",
        boot(),
        namespace(),
        started(pid).unwrap_or_default()
    )
}

/// Whether `owner` is certainly dead, as seen from this process.
#[must_use]
pub fn is_dead(owner: &str) -> bool {
    neighbour(owner).is_some_and(|(pid, start)| started(pid).is_none_or(|now| now != start))
}

/// Whether this process can see `owner`'s.
#[must_use]
pub fn is_neighbour(owner: &str) -> bool {
    neighbour(owner).is_some()
}

/// The process and its start, if it is one of this machine and namespace.
fn neighbour(owner: &str) -> Option<(u32, &str)> {
    let (_, place) = owner.rsplit_once('@')?;
    let mut parts = place.split('/');
    let (its_boot, its_namespace, pid, start) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let boot = boot();
    if boot.is_empty() || its_boot != boot || its_namespace != namespace() {
        return None;
    }
    Some((pid.parse().ok()?, start))
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn namespace() -> String {
    fs::read_link("/proc/self/ns/pid")
        .map(|link| {
            link.to_string_lossy()
                .chars()
                .filter(char::is_ascii_digit)
                .collect()
        })
        .unwrap_or_default()
}

/// When a process started, in clock ticks since boot: field 22 of its `stat`, behind the name in brackets. A process
/// that has ended and is only not yet waited for (state `Z` or `X`, field 3) does nothing any more.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_living_owner_is_not_dead_and_a_gone_one_is() {
        let own = own("a");
        assert!(!is_dead(&own));
        let (head, _) = own.rsplit_once('/').unwrap_or_default();
        assert!(
            is_dead(&format!("{head}/1")),
            "the same pid, started at another time"
        );
        assert!(
            !is_dead("a@another-boot/1/2/3"),
            "another machine cannot be judged from here"
        );
        assert!(!is_dead("nonsense"));
        assert!(is_neighbour(&own) && !is_neighbour("a@another-boot/1/2/3"));
    }

    #[test]
    fn one_that_has_ended_is_dead_before_anybody_waits_for_it() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let stat = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        while !stat().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(started(child.id()), None);
        child.wait().unwrap();
    }
}
