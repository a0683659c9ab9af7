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
    let Some((_, place)) = owner.rsplit_once('@') else {
        return false;
    };
    let mut parts = place.split('/');
    let (Some(its_boot), Some(its_namespace), Some(pid), Some(start)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let boot = boot();
    if boot.is_empty() || its_boot != boot || its_namespace != namespace() {
        return false;
    }
    let Ok(pid) = pid.parse::<u32>() else {
        return false;
    };
    started(pid).is_none_or(|now| now != start)
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

/// When a process started, in clock ticks since boot: field 22 of its `stat`, behind the name in brackets.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
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
    }
}
