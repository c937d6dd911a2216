#!/usr/bin/env python3
"""Takes each guard out of a copy of crates/core, searches with the model, and looks whether the right checker fires first.

`guards.py S15 L2` takes out only theirs; `guards.py --texts` only looks whether all stand where they stood. Prints a row per guard; ends with 1 if a guard was not found, or another checker was first, or none.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ONE = "replicas=1 surge=1 unavailable=0 rolling faults=1 commands=1"
TWO = "replicas=2 surge=1 unavailable=0 rolling faults=1 commands=0"
MOVES, TURNS = "decide/moves.rs", "decide/turns.rs"
HELD = "Phase::Intended | Phase::Starting | Phase::Unready | Phase::Unknown)"

# What must fire, the app that shows it, and the guard: file, as it stands, as it is without.
GUARDS = [
    ("S1", TWO, [(MOVES, "available().saturating_sub(self.floor + self.leaving)", "available().saturating_sub(self.leaving)"),
                 (MOVES, " - i64::from(self.floor) - i64::from(unproven)", " - i64::from(unproven)")]),
    ("S2", TWO, [(MOVES, "self.ceiling.saturating_sub(self.total.live() + self.started)",
                  "self.ceiling.saturating_sub(self.total.held() + self.started)")]),
    ("S3", ONE, [("state/mod.rs", "let good = |r: &RevisionNumber| !self.bad.contains(r);",
                  "let good = |_: &RevisionNumber| true;")]),
    ("S3", ONE, [("state/apply.rs", "if *kind == crate::event::RolloutKind::Rollback\n                    && let",
                  "if let")]),
    ("S4", "replicas=1 surge=1 unavailable=0 rollback versions=3 rolling faults=2 commands=1",
     [(TURNS, "rollout.back_to.is_some() || on_failure", "on_failure")]),
    ("S5", ONE, [(MOVES, "pass.hold_the_floor();", "pass.roll();")]),
    ("S5", "replicas=2 surge=1 unavailable=1 versions=3 rolling faults=1 commands=2",
     [(MOVES, "base_held + self.target_that_serves() + self.between_that_serve()",
       "base_held + self.target_that_serves()")]),
    ("S8", ONE, [("state/apply.rs", "self.end_rollout(RolloutState::Superseded, None);", "")]),
    ("S12", ONE, [(MOVES, "let may_be_busy = self.state.may_be_busy(instance);", "let may_be_busy = false;")]),
    ("S12", ONE, [("state/apply.rs", "if phase == Phase::Ready || !routed {", "if phase != Phase::Failed {"),
                  ("state/mod.rs", "Fact::Routed(routed) => phase == Phase::Ready &&", "Fact::Routed(routed) =>")]),
    ("S13", ONE, [("state/lives.rs", HELD, HELD[:-1] + " | Phase::Draining)"),
                  ("state/mod.rs", HELD, HELD[:-1] + " | Phase::Draining)")]),
    ("S15", "replicas=2 surge=1 unavailable=1 rolling faults=0 commands=1",
     [(MOVES, "self.target.held().saturating_sub(self.goal);",
       "self.target.held().saturating_sub(if self.state.open_rollout().is_some_and(|r| r.back_to.is_some())"
       " && self.target.unavailable() == 0 { 0 } else { self.goal });"),
      (MOVES, "        self.stop_surplus(target);", "        if stopped == 0 { self.stop_surplus(target); }")]),
    ("S16", ONE, [("state/book.rs", "self.free.remove(&slot);\n        self.backoff", "self.backoff")]),
    ("S17", ONE, [(TURNS, "state.open_rollout()?;", "state.last_rollout()?;"),
                  (TURNS, "RolloutState::Running | RolloutState::RollingBack =>",
                   "RolloutState::Running | RolloutState::RollingBack | RolloutState::Aborted =>")]),
    ("S17", ONE, [("state/turns.rs", "self.last_rollout_mut().filter(|r| !r.state.is_terminal())",
                   "self.last_rollout_mut()")]),
    ("S18", ONE, [("state/mod.rs", "available == self.goal() && self.totals.live() == self.budget().desired",
                   "available == self.goal()")]),
    ("S18", ONE, [("state/apply.rs", "self.set_phase(key, Phase::Starting, |_| ());",
                   "self.set_phase(key, Phase::Ready, |_| ());")]),
    ("S19", TWO, [(MOVES, "self.start(base, missing.min(to_floor),",
                   "self.start(self.state.target().unwrap_or(base), missing.min(to_floor),")]),
    ("S20", ONE, [("state/apply.rs", "self.end_rollout(RolloutState::Superseded, None);",
                   "self.end_rollout(RolloutState::Aborted, None);")]),
    ("S21", ONE, [("state/apply.rs", "        self.advance(at);\n", "        self.advance(at + 1);\n")]),
    ("scan", ONE, [("state/lives.rs", "            book.ready -= u32::from(instance.phase == Phase::Ready);\n", "")]),
    ("rest", ONE, [("state/lives.rs", "            self.overdue.remove(&key);\n            self.stoppable.remove(&key);\n",
                    "            self.overdue.remove(&key);\n")]),
    ("L2", "replicas=1 surge=1 unavailable=0 rollback rolling faults=1 commands=0",
     [(TURNS, "(Some(_), false) => Outcome::RolledBack", "(Some(_), false) => Outcome::Failed")]),
    ("L3", "replicas=1 surge=1 unavailable=0 most=2 faults=0 commands=2",
     [(MOVES, "self.target.held().saturating_sub(self.goal);", "0;")]),
    ("L4", ONE, [("state/turns.rs", "rollout.cause = None;\n            rollout.failures = 0;", "rollout.cause = None;")]),
    ("L5", "replicas=2 surge=1 unavailable=1 healthy batch=1 delay rolling faults=0 commands=0",
     [("state/apply.rs", "self.timers.set(now + delay, Timer::Wake);", "")]),
    ("S5", ONE, [("state/book.rs", "if self.penalty.get(&slot).is_some_and(|at| *at <= now) {",
                  "if self.penalty.get(&slot).is_some_and(|at| *at < now) {")]),
]


def copy(to: pathlib.Path) -> None:
    shutil.copytree(ROOT / "crates/core", to / "crates/core")
    shutil.copy(ROOT / "Cargo.lock", to)
    manifest = (ROOT / "Cargo.toml").read_text()
    (to / "Cargo.toml").write_text(re.sub(r"(?m)^default-members.*\n", "", manifest))


def first_to_fire(at: pathlib.Path, app: str) -> str:
    """The number of the first rule that breaks; `none`, or why it could not be tried."""
    command = ["cargo", "test", "--offline", "-p", "trundle-core", "--test", "model", "no_order"]
    # A target directory of its own: what is built here is broken on purpose.
    env = {**os.environ, "CARGO_TARGET_DIR": str(at / "target"), "TRUNDLE_MODEL": app, "RUST_BACKTRACE": "0"}
    ran = subprocess.run(command, cwd=at, env=env, capture_output=True, text=True, timeout=900)
    said = ran.stdout + ran.stderr
    found = re.search(r"invariant (\w+) is broken", said)
    if found:
        return found[1]
    return "none" if "test result: ok" in said else "not tried: " + said[-400:]


def all_stand() -> int:
    """Without a build: each is in its file, once."""
    lost = [(file, text) for _, _, edits in GUARDS for file, text, _ in edits
            if (ROOT / "crates/core/src" / file).read_text().count(text) != 1]
    for file, text in lost:
        print(f"guards.py: not once in {file}: {text}", file=sys.stderr)
    print(f"{len(GUARDS)} guards stand where they stood" if not lost else f"{len(lost)} are not found")
    return 1 if lost else 0


def main(only: list[str]) -> int:
    if only == ["--texts"]:
        return all_stand()
    guards = [guard for guard in GUARDS if not only or guard[0] in only]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        copy(at)
        for wanted, app, edits in guards:
            before = {}
            problem = ""
            for file, stands, without in edits:
                path = at / "crates/core/src" / file
                text = path.read_text()
                before.setdefault(path, text)
                if text.count(stands) != 1:
                    problem = f"{file} has {text.count(stands)} times: {stands}"
                path.write_text(text.replace(stands, without))
            fired = problem or first_to_fire(at, app)
            for path, text in before.items():
                path.write_text(text)
            wrong += fired != wanted
            mark = "ok " if fired == wanted else "BAD"
            print(f"{mark} {wanted:4} {edits[0][0]:18} {edits[0][1].strip().splitlines()[0][:60]:60} fired: {fired}", flush=True)
    print(f"{len(guards)} guards taken out, {wrong} not answered by their own checker")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
