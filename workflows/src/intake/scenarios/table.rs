//! The scenarios: what is said, and what follows.
//!
//! An event is `said type effective words`, with days counted from the start. Words are a department (all attributes),
//! `to=X` (a change of the department alone), `contract=A`, `replaces=N` (the number of an event of the row), `key=b` (said of
//! another key, which the person has or is taken to have), and `from=b` (which key is merged or split).
//! An end may have `ends=at_once` and the like: its day alone is said, and this rule of the policy says when that is over.
//! Versions count up in the order of the row.
//!
//! Access is that on the directory: `none`, `sales`, `eng`, `support` and `staff` (the account is open, with these groups;
//! `sales+support`: both, because what support gives is kept for 20 days to hand work over), `away:`
//! before one of them (closed, with its groups), `off` (closed, without).
//!
//! Longer than 800 lines: one table, a row a scenario.

/// Name, what is said, and the access expected from each of these days on.
pub(super) type Row = (
    &'static str,
    &'static [&'static str],
    &'static [(i64, &'static str)],
);

pub(super) const TABLE: &[Row] = &[
    (
        "hired today",
        &["0 hire 0 Sales"],
        &[(0, "sales"), (90, "sales")],
    ),
    (
        "hired ahead of the day",
        &["0 hire 20 Sales"],
        &[(10, "none"), (20, "sales")],
    ),
    (
        "hired, told late",
        &["30 hire 10 Sales"],
        &[(20, "none"), (30, "sales")],
    ),
    (
        "first day moved back",
        &["0 hire 20 Sales", "10 hire 40 Sales"],
        &[(30, "none"), (40, "sales")],
    ),
    (
        "first day moved forward",
        &["0 hire 40 Sales", "10 hire 20 Sales"],
        &[(10, "none"), (20, "sales"), (50, "sales")],
    ),
    (
        "hire rescinded before the day",
        &["0 hire 20 Sales", "10 hire.rescinded 10"],
        &[(20, "none"), (90, "none")],
    ),
    (
        "hire rescinded after it began",
        &["0 hire 0 Sales", "10 hire.rescinded 10"],
        &[(0, "sales"), (10, "off")],
    ),
    (
        "rescinded, then hired again",
        &[
            "0 hire 20 Sales",
            "10 hire.rescinded 10",
            "20 hire 40 Engineering",
        ],
        &[(20, "none"), (30, "none"), (40, "eng")],
    ),
    (
        "a rescission that is withdrawn",
        &[
            "0 hire 30 Sales",
            "10 hire.rescinded 10",
            "20 transfer 20 to=Sales replaces=2",
        ],
        &[(20, "none"), (30, "sales")],
    ),
    (
        "hired twice",
        &["0 hire 0 Sales", "20 hire 0 Sales"],
        &[(0, "sales"), (20, "sales")],
    ),
    (
        "end announced",
        &["0 hire 0 Sales", "10 termination.scheduled 40"],
        &[(30, "sales"), (40, "off")],
    ),
    (
        "end moved later",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 40",
            "20 termination.corrected 60",
        ],
        &[(40, "sales"), (50, "sales"), (60, "off")],
    ),
    (
        "end moved sooner",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 60",
            "20 termination.corrected 40",
        ],
        &[(30, "sales"), (40, "off"), (60, "off")],
    ),
    (
        "end cancelled",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 40",
            "20 termination.cancelled 20",
        ],
        &[(40, "sales"), (90, "sales")],
    ),
    (
        "end cancelled after it came",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 20",
            "40 termination.cancelled 40",
        ],
        &[(20, "off"), (30, "off"), (40, "sales")],
    ),
    (
        "end cancelled and announced again",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 30",
            "20 termination.cancelled 20",
            "20 termination.scheduled 60",
        ],
        &[(30, "sales"), (50, "sales"), (60, "off")],
    ),
    (
        "a cancellation that is withdrawn",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 50",
            "20 termination.cancelled 20",
            "30 transfer 30 to=Sales replaces=3",
        ],
        &[(40, "sales"), (50, "off")],
    ),
    (
        "a cancellation withdrawn after the end",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 20",
            "10 termination.cancelled 10",
            "40 transfer 40 to=Sales replaces=3",
        ],
        &[(30, "sales"), (40, "off")],
    ),
    (
        "ended today",
        &["0 hire 0 Sales", "20 termination.effective 20"],
        &[(10, "sales"), (20, "off")],
    ),
    (
        "ended, told late",
        &["0 hire 0 Sales", "40 termination.effective 20"],
        &[(30, "sales"), (40, "off")],
    ),
    (
        "an end announced and then told",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 20",
            "30 termination.effective 30",
        ],
        &[(20, "off"), (30, "off")],
    ),
    (
        "an end that came too early is corrected",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 20",
            "30 termination.corrected 60",
        ],
        &[(20, "off"), (30, "sales"), (60, "off")],
    ),
    (
        "an end taken back by name",
        &[
            "0 hire 0 Sales",
            "10 termination.effective 40",
            "20 transfer 20 to=Law replaces=2",
        ],
        &[(20, "staff"), (40, "staff")],
    ),
    (
        "never came",
        &["0 hire 20 Sales", "10 termination.effective 10"],
        &[(20, "none"), (90, "none")],
    ),
    (
        "ends on the first day",
        &["0 hire 20 Sales", "10 termination.scheduled 20"],
        &[(20, "none"), (90, "none")],
    ),
    (
        "came back",
        &[
            "0 hire 0 Sales",
            "10 termination.effective 20",
            "30 rehire 40 Engineering",
        ],
        &[(20, "off"), (30, "off"), (40, "eng")],
    ),
    (
        "came back the day of leaving",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 20",
            "10 rehire 20 Engineering",
        ],
        &[(10, "sales"), (20, "eng")],
    ),
    (
        "return known before the end",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 20",
            "10 rehire 40 Sales",
        ],
        &[(20, "off"), (30, "off"), (40, "sales")],
    ),
    (
        "came back twice",
        &[
            "0 hire 0 Sales",
            "10 termination.effective 10",
            "20 rehire 20 Sales",
            "30 termination.effective 30",
            "40 rehire 40 Engineering",
        ],
        &[(10, "off"), (20, "sales"), (30, "off"), (40, "eng")],
    ),
    (
        "came back for a time",
        &[
            "0 hire 0 Sales",
            "10 termination.effective 10",
            "20 rehire 20 Sales",
            "20 termination.scheduled 80",
        ],
        &[(10, "off"), (20, "sales"), (80, "off")],
    ),
    (
        "a return that is rescinded",
        &[
            "0 hire 0 Sales",
            "10 termination.effective 20",
            "20 rehire 60 Sales",
            "40 hire.rescinded 40",
        ],
        &[(20, "off"), (60, "off")],
    ),
    (
        "a return that is moved",
        &[
            "0 hire 0 Sales",
            "10 termination.effective 10",
            "20 rehire 40 Sales",
            "30 rehire 60 Sales",
        ],
        &[(40, "off"), (60, "sales")],
    ),
    (
        "hired anew while an end was announced",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 60",
            "20 hire 0 Engineering",
        ],
        &[(20, "eng"), (60, "eng")],
    ),
    (
        "moved today",
        &["0 hire 0 Sales", "20 transfer 20 to=Engineering"],
        &[(10, "sales"), (20, "eng")],
    ),
    (
        "a move announced",
        &["0 hire 0 Sales", "0 transfer 40 to=Engineering"],
        &[(30, "sales"), (40, "eng")],
    ),
    (
        "moved, told late",
        &["0 hire 0 Sales", "30 transfer 10 to=Engineering"],
        &[(20, "sales"), (30, "eng")],
    ),
    (
        "moved there and back",
        &[
            "0 hire 0 Sales",
            "20 transfer 20 to=Engineering",
            "40 transfer 40 to=Sales",
        ],
        &[(20, "eng"), (40, "sales")],
    ),
    (
        "a later statement about an earlier day",
        &[
            "0 hire 0 Sales",
            "10 transfer 40 to=Engineering",
            "20 transfer 20 to=Law",
        ],
        &[(20, "staff"), (40, "eng")],
    ),
    (
        "an announced move taken back",
        &[
            "0 hire 0 Sales",
            "10 transfer 40 to=Engineering",
            "20 transfer 20 to=Sales replaces=2",
        ],
        &[(40, "sales"), (90, "sales")],
    ),
    (
        "an announced move moved",
        &[
            "0 hire 0 Sales",
            "10 transfer 30 to=Engineering",
            "20 transfer 50 to=Engineering replaces=2",
        ],
        &[(30, "sales"), (40, "sales"), (50, "eng")],
    ),
    (
        "a move corrected for the same day",
        &[
            "0 hire 0 Sales",
            "10 transfer 20 to=Law",
            "20 transfer 20 to=Engineering",
        ],
        &[(20, "eng"), (90, "eng")],
    ),
    (
        "a move told late, under a later one",
        &[
            "0 hire 0 Sales",
            "20 transfer 20 to=Law",
            "40 transfer 10 to=Engineering",
        ],
        &[(20, "staff"), (40, "staff")],
    ),
    (
        "all attributes told anew",
        &["0 hire 0 Sales", "20 transfer 20 Engineering"],
        &[(10, "sales"), (20, "eng")],
    ),
    (
        "moved before the first day",
        &["0 hire 40 Sales", "10 transfer 20 to=Engineering"],
        &[(30, "none"), (40, "eng")],
    ),
    (
        "a move announced before the first day",
        &["0 hire 20 Sales", "0 transfer 60 to=Law"],
        &[(20, "sales"), (60, "staff")],
    ),
    (
        "a move after the end changes nothing",
        &[
            "0 hire 0 Sales",
            "10 termination.effective 20",
            "30 transfer 30 to=Engineering",
        ],
        &[(20, "off"), (30, "off")],
    ),
    (
        "comes back to what is said then",
        &[
            "0 hire 0 Sales",
            "10 termination.effective 20",
            "30 transfer 30 to=Engineering",
            "40 rehire 40 Sales",
        ],
        &[(30, "off"), (40, "sales")],
    ),
    (
        "time to hand work over",
        &["0 hire 0 Support", "20 transfer 20 to=Sales"],
        &[
            (10, "support"),
            (20, "sales+support"),
            (30, "sales+support"),
            (40, "sales"),
        ],
    ),
    (
        "moved again while handing over",
        &[
            "0 hire 0 Support",
            "20 transfer 20 to=Sales",
            "30 transfer 30 to=Engineering",
        ],
        &[
            (20, "sales+support"),
            (30, "eng+support"),
            (40, "eng"),
            (60, "eng"),
        ],
    ),
    (
        "back again while handing over",
        &[
            "0 hire 0 Support",
            "20 transfer 20 to=Sales",
            "30 transfer 30 to=Support",
        ],
        &[(20, "sales+support"), (30, "support"), (60, "support")],
    ),
    (
        "left while handing over",
        &[
            "0 hire 0 Support",
            "20 transfer 20 to=Sales",
            "30 termination.effective 30",
        ],
        &[(20, "sales+support"), (30, "off"), (60, "off")],
    ),
    (
        "an end announced and withdrawn while handing over",
        &[
            "0 hire 0 Support",
            "20 transfer 20 to=Sales",
            "20 termination.scheduled 60",
            "30 termination.cancelled 30",
        ],
        &[
            (20, "sales+support"),
            (30, "sales+support"),
            (40, "sales"),
            (60, "sales"),
        ],
    ),
    (
        "everything revoked while handing over",
        &[
            "0 hire 0 Support",
            "20 transfer 20 to=Sales",
            "30 access.revoke_now 30",
        ],
        &[(20, "sales+support"), (30, "off"), (60, "off")],
    ),
    (
        "on leave while handing over",
        &[
            "0 hire 0 Support",
            "20 transfer 20 to=Sales",
            "20 leave.start 30",
            "20 leave.end 50",
        ],
        &[(20, "sales+support"), (50, "sales"), (90, "sales")],
    ),
    (
        "a last day that is over with the day",
        &[
            "0 hire 0 Sales",
            "20 termination.scheduled 40 ends=end_of_day",
        ],
        &[(30, "sales"), (40, "sales"), (50, "off")],
    ),
    (
        "a last day that is over with the last shift",
        &[
            "0 hire 0 Sales",
            "20 termination.scheduled 40 ends=last_shift@00:01",
        ],
        &[(30, "sales"), (40, "off"), (60, "off")],
    ),
    (
        "an announced end that takes access at once",
        &["0 hire 0 Sales", "20 termination.scheduled 40 ends=at_once"],
        &[(10, "sales"), (20, "off"), (50, "off")],
    ),
    (
        "an end that took access at once and is withdrawn",
        &[
            "0 hire 0 Sales",
            "20 termination.scheduled 60 ends=at_once",
            "40 termination.cancelled 40",
        ],
        &[(20, "off"), (30, "off"), (40, "sales"), (60, "sales")],
    ),
    (
        "another cost centre",
        &["0 hire 0 Sales", "20 cost_center.changed 20 to=Engineering"],
        &[(10, "sales"), (20, "eng")],
    ),
    (
        "another company of the group",
        &["0 hire 0 Sales", "10 entity.transfer 40 to=Law"],
        &[(30, "sales"), (40, "staff")],
    ),
    (
        "another manager",
        &["0 hire 0 Sales", "20 manager.changed 20"],
        &[(20, "sales"), (90, "sales")],
    ),
    (
        "on leave and back",
        &["0 hire 0 Sales", "10 leave.start 20", "10 leave.end 50"],
        &[
            (10, "sales"),
            (20, "away:sales"),
            (40, "away:sales"),
            (50, "sales"),
        ],
    ),
    (
        "on leave without an end",
        &["0 hire 0 Sales", "10 leave.start 20"],
        &[(20, "away:sales"), (90, "away:sales")],
    ),
    (
        "leave made longer",
        &[
            "0 hire 0 Sales",
            "10 leave.start 20",
            "10 leave.end 40",
            "20 leave.end 60 replaces=3",
        ],
        &[(40, "away:sales"), (60, "sales")],
    ),
    (
        "leave that is not taken",
        &["0 hire 0 Sales", "10 leave.start 30", "20 leave.end 30"],
        &[(30, "sales"), (90, "sales")],
    ),
    (
        "moved while on leave",
        &[
            "0 hire 0 Sales",
            "10 leave.start 20",
            "20 transfer 30 to=Engineering",
            "20 leave.end 50",
        ],
        &[(20, "away:sales"), (30, "away:staff"), (50, "eng")],
    ),
    (
        "left while on leave",
        &[
            "0 hire 0 Sales",
            "10 leave.start 20",
            "20 termination.effective 40",
        ],
        &[(20, "away:sales"), (40, "off")],
    ),
    (
        "a leave that ends after the end",
        &[
            "0 hire 0 Sales",
            "10 leave.start 20",
            "20 termination.effective 40",
            "20 leave.end 60",
        ],
        &[(40, "off"), (60, "off")],
    ),
    (
        "came back from a leave that never ended",
        &[
            "0 hire 0 Sales",
            "10 leave.start 20",
            "20 termination.effective 40",
            "50 rehire 60 Sales",
        ],
        &[(20, "away:sales"), (40, "off"), (60, "sales")],
    ),
    (
        "leave told late",
        &["0 hire 0 Sales", "40 leave.start 20"],
        &[(30, "sales"), (40, "away:sales")],
    ),
    (
        "leave told when it was over",
        &["0 hire 0 Sales", "60 leave.start 20", "60 leave.end 40"],
        &[(50, "sales"), (60, "sales")],
    ),
    (
        "a contract",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 40 contract=A",
        ],
        &[(0, "sales"), (30, "sales"), (40, "off")],
    ),
    (
        "a contract made longer",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 40 contract=A",
            "20 contract.extended 20 contract=A",
            "20 contract.expired 70 contract=A",
        ],
        &[(40, "sales"), (60, "sales"), (70, "off")],
    ),
    (
        "a contract made shorter",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 60 contract=A",
            "20 contract.expired 30 contract=A",
        ],
        &[(20, "sales"), (30, "off")],
    ),
    (
        "a contract that begins later",
        &[
            "0 contract.start 20 Sales contract=A",
            "0 contract.expired 60 contract=A",
            "10 contract.start 40 Sales contract=A",
        ],
        &[(20, "none"), (40, "sales"), (60, "off")],
    ),
    (
        "one contract within another",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 60 contract=A",
            "10 contract.start 20 Sales contract=B",
            "10 contract.expired 40 contract=B",
        ],
        &[(20, "sales"), (40, "sales"), (60, "off")],
    ),
    (
        "one contract after another",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 20 contract=A",
            "10 contract.start 20 Law contract=B",
            "10 contract.expired 60 contract=B",
        ],
        &[(10, "sales"), (20, "staff"), (60, "off")],
    ),
    (
        "a gap between two contracts",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 20 contract=A",
            "10 contract.start 40 Sales contract=B",
            "10 contract.expired 60 contract=B",
        ],
        &[(20, "off"), (40, "sales"), (60, "off")],
    ),
    (
        "a contractor is employed without a gap",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 40 contract=A",
            "30 hire 40 Engineering",
        ],
        &[(30, "sales"), (40, "eng"), (90, "eng")],
    ),
    (
        "an employee goes on as a contractor",
        &[
            "0 hire 0 Sales",
            "20 termination.scheduled 40",
            "20 contract.start 40 Law contract=B",
            "20 contract.expired 80 contract=B",
        ],
        &[(30, "sales"), (40, "staff"), (80, "off")],
    ),
    (
        "a conversion announced",
        &[
            "0 contract.start 0 Sales",
            "10 conversion 50 to=Engineering",
        ],
        &[(20, "sales"), (40, "sales"), (50, "eng")],
    ),
    (
        "a conversion taken back",
        &[
            "0 contract.start 0 Sales",
            "10 conversion 40 to=Engineering",
            "20 transfer 20 to=Sales replaces=2",
        ],
        &[(40, "sales"), (90, "sales")],
    ),
    (
        "everything revoked at once",
        &["0 hire 0 Sales", "20 access.revoke_now 20"],
        &[(10, "sales"), (20, "off"), (90, "off")],
    ),
    (
        "revoked, and hired again",
        &[
            "0 hire 0 Sales",
            "20 access.revoke_now 20",
            "40 rehire 40 Engineering",
        ],
        &[(20, "off"), (30, "off"), (40, "eng")],
    ),
    (
        "an older cancellation does not lift a revocation",
        &[
            "0 hire 0 Sales",
            "10 termination.scheduled 60",
            "20 termination.cancelled 20",
            "30 access.revoke_now 30",
        ],
        &[(20, "sales"), (30, "off"), (60, "off")],
    ),
    (
        "revoked while on leave",
        &[
            "0 hire 0 Sales",
            "10 leave.start 20",
            "30 access.revoke_now 30",
            "30 leave.end 50",
        ],
        &[(20, "away:sales"), (30, "off"), (50, "off")],
    ),
    (
        "revoked before the first day",
        &["0 hire 40 Sales", "10 access.revoke_now 10"],
        &[(20, "none"), (40, "none")],
    ),
    (
        "a contractor is hired under another key, known to be theirs",
        &[
            "0 contract.start 0 Engineering",
            "20 identity.merged 20 from=b",
            "20 hire 20 Sales key=b",
            "40 contract.expired 40",
        ],
        &[(10, "eng"), (20, "sales"), (40, "sales"), (90, "sales")],
    ),
    (
        "a contractor is hired under another key, known later",
        &[
            "0 contract.start 0 Engineering",
            "20 hire 20 Sales key=b",
            "30 contract.expired 30",
            "50 identity.merged 50 from=b",
        ],
        &[(10, "eng"), (40, "sales"), (50, "sales"), (90, "sales")],
    ),
    (
        "two at work are told to be one, and one of the two ends",
        &[
            "0 hire 0 Sales",
            "10 hire 10 Engineering key=b",
            "30 identity.merged 30 from=b",
            "60 termination.effective 60 key=b",
        ],
        &[(30, "eng"), (50, "eng"), (60, "sales"), (90, "sales")],
    ),
    (
        "two that are one leave under both keys",
        &[
            "0 hire 0 Sales",
            "10 hire 10 Engineering key=b",
            "20 identity.merged 20 from=b",
            "40 termination.effective 40",
            "60 termination.effective 60 key=b",
        ],
        &[(20, "eng"), (50, "eng"), (60, "off"), (90, "off")],
    ),
    (
        "all access of two that are one is revoked under one key",
        &[
            "0 hire 0 Sales",
            "10 hire 10 Engineering key=b",
            "20 identity.merged 20 from=b",
            "40 access.revoke_now 40 key=b",
        ],
        &[(30, "eng"), (40, "off"), (90, "off")],
    ),
    (
        "merged by mistake and split again, then one leaves",
        &[
            "0 hire 0 Sales",
            "10 hire 10 Engineering key=b",
            "20 identity.merged 20 from=b",
            "40 identity.split 40 from=b",
            "50 termination.effective 50 key=b",
        ],
        &[(20, "eng"), (30, "eng"), (50, "sales"), (90, "sales")],
    ),
    (
        "split and merged again",
        &[
            "0 hire 0 Sales",
            "10 hire 10 Engineering key=b",
            "20 identity.merged 20 from=b",
            "30 identity.split 30 from=b",
            "50 identity.merged 50 from=b",
        ],
        &[(20, "eng"), (50, "eng"), (90, "eng")],
    ),
    (
        "the first of two contracts made longer than the second",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 20 contract=A",
            "0 contract.start 10 Sales contract=B",
            "0 contract.expired 40 contract=B",
            "10 contract.extended 10 contract=A",
            "10 contract.expired 70 contract=A",
        ],
        &[(20, "sales"), (40, "sales"), (60, "sales"), (70, "off")],
    ),
    (
        "a contract made longer after it had ended",
        &[
            "0 contract.start 0 Sales contract=A",
            "0 contract.expired 20 contract=A",
            "40 contract.extended 40 contract=A",
            "40 contract.expired 70 contract=A",
        ],
        &[
            (10, "sales"),
            (20, "off"),
            (30, "off"),
            (40, "sales"),
            (70, "off"),
        ],
    ),
];
