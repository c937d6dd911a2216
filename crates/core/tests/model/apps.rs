//! Which apps are searched: the routine ones within a minute on two cores, and the full product for the night.

/// Each policy once, with so many faults and commands on one path that it stays small.
pub const ROUTINE: &[&str] = &[
    "replicas=2 surge=2 unavailable=2 versions=3 rolling faults=1 commands=1",
    "replicas=3 surge=1 unavailable=0 rolling faults=1 commands=1",
    "replicas=2 surge=1 unavailable=0 rolling faults=1 commands=1",
    "replicas=2 surge=0 unavailable=1 rolling faults=1 commands=1",
    "replicas=2 surge=1 unavailable=1 most=3 rolling faults=0 commands=2",
    "replicas=2 surge=1 unavailable=0 rollback rolling faults=2 commands=0",
    "replicas=2 surge=1 unavailable=0 rollback versions=3 rolling faults=0 commands=2",
    "replicas=2 surge=1 unavailable=0 healthy continue max_failures=2 rolling faults=1 commands=0",
    "replicas=2 surge=1 unavailable=1 healthy batch=1 delay bake rolling faults=1 commands=0",
    "replicas=2 surge=1 unavailable=0 step rolling faults=0 commands=2",
    "replicas=2 surge=0 unavailable=2 worker rolling faults=1 commands=1",
    "replicas=3 surge=0 unavailable=1 most=3 rolling faults=0 commands=2",
    "replicas=1 surge=1 unavailable=0 empty faults=1 commands=2",
    "replicas=1 surge=1 unavailable=0 healthy clocks rolling faults=1 commands=1",
    "replicas=1 surge=1 unavailable=0 rolling faults=1 commands=1 interleaved",
    "replicas=2 surge=1 unavailable=0 rolling faults=1 commands=0 interleaved",
];

/// Every budget and every policy: D = 1 with any number of faults, D = 2 with two faults and two commands, D = 3 with two
/// and one.
pub fn full() -> Vec<String> {
    let budgets = ["surge=1 unavailable=0", "surge=0 unavailable=1", "surge=1 unavailable=1"];
    let wider = ["surge=2 unavailable=0", "surge=0 unavailable=2", "surge=2 unavailable=2"];
    let policies =
        ["", "rollback max_failures=2", "continue", "healthy batch=1 delay bake", "worker", "step"];
    let mut lines = Vec::new();
    for policy in policies {
        for budget in budgets {
            lines.push(format!("replicas=1 {budget} {policy} rolling commands=1"));
            lines.push(format!("replicas=1 {budget} {policy} empty faults=2 commands=2"));
            lines.push(format!("replicas=1 {budget} {policy} interleaved rolling faults=2 commands=2"));
            lines.push(format!("replicas=2 {budget} {policy} most=3 rolling faults=2 commands=2"));
        }
        for budget in budgets.iter().chain(&wider) {
            lines.push(format!("replicas=2 {budget} {policy} versions=3 rolling faults=1 commands=2"));
            lines.push(format!("replicas=3 {budget} {policy} most=4 versions=3 rolling faults=2 commands=1"));
        }
        lines.push(format!("replicas=2 surge=1 unavailable=1 {policy} clocks rolling faults=1 commands=1"));
    }
    lines
}
