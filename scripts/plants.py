#!/usr/bin/env python3
"""Plants a bug for a test that has not caught one by itself, and looks whether the test finds it.

`plants.py gRPC` plants only those with the word in their name; `plants.py --texts` only looks whether each can be planted. The work tree must be clean: it is changed, and put back. Prints a row a
plant; ends with 1 if one was not found. The guards of the invariants are taken out by guards.py.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What is wrong, the file, as it stands, as it is with the bug, and the test that must fail.
PLANTS = [
    ("a secret is written into the template", "crates/drivers/src/prepare.rs",
     "        draft.env.remove(key);\n", "        draft.env.insert(key.clone(), secret.expose().to_owned());\n",
     ["-p", "trundle-drivers", "--test", "prepare"]),
    ("a number beyond its range is taken", "crates/trundle/src/config/value.rs",
     ".filter(|n| (least..=most).contains(n))", "", ["-p", "trundle", "--test", "config"]),
    ("a batch is twice as large", "crates/core/src/decide/moves.rs",
     "batch.saturating_mul(complete + u32::from(!waits))", "batch.saturating_mul(complete + 2 * u32::from(!waits))",
     ["-p", "trundle-sim", "--test", "scenarios"]),
    ("a rollout may be in work twice at once", "crates/sim/src/outcome.rs",
     "size.div_ceil(at_once.min(size))", "size.div_ceil((2 * at_once).min(size))", ["-p", "trundle-sim", "--test", "limits"]),
    ("the simulator never says that a drain is proven", "crates/sim/src/world.rs",
     "drains.then_some((key, Fact::Drained", "(drains && false).then_some((key, Fact::Drained",
     ["-p", "trundle", "--test", "e2e", "--", "simulated"]),
    ("a held request is refused when its instance comes", "crates/proxy/src/forward.rs",
     "    let _ = tokio::time::timeout_at(again.into(), changed).await;\n    true",
     "    tokio::time::timeout_at(again.into(), changed).await.is_err()", ["-p", "trundle-proxy", "--test", "hold"]),
    ("a stream that was refused counts as looked at", "crates/proxy/src/upstream/http2.rs",
     "h2.reason() == Some(h2::Reason::REFUSED_STREAM)", "false", ["-p", "trundle-proxy", "--test", "http2"]),
    ("a body that is sent again does not begin anew", "crates/proxy/src/replay.rs",
     "        self.next = 0;\n", "", ["-p", "trundle-proxy", "--test", "http2"]),
    ("a chunk ends with any byte", "crates/proxy/src/upstream/chunks.rs",
     "(Place::DataCr, b'\\r') => Place::DataLf,", "(Place::DataCr, _) => Place::DataLf,",
     ["-p", "trundle-proxy", "--lib", "upstream"]),
    ("the rest of a request stays behind when its answer begins", "crates/proxy/src/upstream/http1.rs",
     "self.finish(upload, request.into_body());", "drop((upload, request));", ["-p", "trundle-proxy", "--test", "early"]),
    ("a connection on which more has come is used again", "crates/proxy/src/upstream/http1.rs",
     "self.is_read() && self.rest.is_empty()", "self.is_read()", ["-p", "trundle-proxy", "--test", "corpus"]),
    ("a program that cannot be started is started for ever", "crates/proxy/src/holder.rs",
     "            self.config.program = before;\n", "            let _ = before;\n",
     ["-p", "trundle-proxy", "--test", "upgrade", "gives_way"]),
    ("an answer that was reset in its middle looks whole", "crates/proxy/src/upstream.rs",
     "None if !body.is_end_stream() =>", "None if false =>", ["-p", "trundle-proxy", "--test", "http2", "reset"]),
    ("versions: a client goes back", "crates/proxy/src/window.rs",
     "drawn.min(may_get.saturating_sub(1))", "drawn", ["-p", "trundle-proxy", "--test", "window", "never_goes_back"]),
    ("versions: a way back releases nobody", "crates/core/src/state/window.rs",
     "u64::from(first.id.0) * 2 + goes_back", "u64::from(first.id.0) * 2 + goes_back * 0", ["-p", "trundle-core", "--test", "window"]),
    ("versions: a signature is not looked at", "crates/proxy/src/window/keys.rs",
     "verify_truncated_left(tag).is_ok()", "verify_truncated_left(tag).is_ok() || tag.len() == TAG_BYTES",
     ["-p", "trundle-proxy", "--lib", "window"]),
    ("versions: who was kept for pages and is released comes back", "crates/proxy/src/director.rs",
     "            EndpointState::Kept if live.flag() == Flag::Draining => Flag::Draining,\n", "",
     ["-p", "trundle-proxy", "--test", "window", "released"]),
    ("versions: what a page asks for is its page", "crates/proxy/src/window.rs",
     "let is_page = wish.is_navigation && is_html(headers);", "let is_page = !self.skew.is_empty() && is_html(headers);",
     ["-p", "trundle-proxy", "--test", "window", "kept_for_its_pages"]),
    ("versions: a share drifts", "crates/proxy/src/window.rs",
     "wrapping_mul(STEP) % 100;", "wrapping_mul(STEP + 1) % 100;", ["-p", "trundle-proxy", "--test", "window", "exact"]),
    ("versions: who calls is forgotten with the process", "crates/proxy/src/window/uses.rs",
     "            let _ = uses.word(row, STATE).compare_exchange(TAKEN, FREE, Relaxed, Relaxed);\n",
     "            uses.word(row, STATE).store(FREE, Relaxed);\n", ["-p", "trundle-proxy", "--test", "formats"]),
    ("versions: a gate opens although a rollback could go back", "crates/core/src/state/gates.rs",
     "for way_back in ways_back.into_iter().flatten().filter(", "for way_back in ways_back.into_iter().flatten().filter(|_| false).filter(",
     ["-p", "trundle-core", "--test", "gates"]),
    ("versions: gates are told after the instances", "crates/engine/src/engine/acting.rs",
     "if gates != app.told_gates || app.fresh", "if app.touched.is_empty() && gates != app.told_gates || app.fresh",
     ["-p", "trundle", "--test", "e2e", "--", "gates::"]),
    ("versions: a late answer of the old version undoes the new one's", "crates/proxy/src/window.rs",
     "let is_newest = self.newest == Some(token.seen);", "let is_newest = false;", ["-p", "trundle-proxy", "--test", "window", "comes_late"]),
    ("versions: nobody is told while one version is alone", "crates/proxy/src/window.rs",
     "let is_open = self.is_open &&", "let is_open = self.is_open && self.groups.len() > 1 &&",
     ["-p", "trundle-proxy", "--test", "window", "away_for_a_moment"]),
    ("versions: a deploy waits for pages", "crates/core/src/state/apply.rs",
     "            Command::Roll { rollout, target, kind, step } => {\n                self.release(&self.kept());\n",
     "            Command::Roll { rollout, target, kind, step } => {\n", ["-p", "trundle-core", "--test", "window", "needs_the_room"]),
    ("versions: a gate opens within a rollout", "crates/core/src/state/gates.rs",
     ", self.way_back(self.base)]", "]", ["-p", "trundle-core", "--test", "gates"]),
    ("versions: a client may say that it is a mirror", "crates/proxy/src/forward.rs",
     "        mirror::remove_marks(request.headers_mut());\n", "        let _ = mirror::remove_marks;\n",
     ["-p", "trundle-proxy", "--test", "mirror"]),
    ("versions: a format goes while its callers come", "crates/core/src/formats.rs",
     "caller.ago_ms < quiet_for_ms", "caller.ago_ms > quiet_for_ms", ["-p", "trundle-core", "--test", "formats"]),
    ("a secret is written into the template, and seen end to end", "crates/drivers/src/prepare.rs",
     "        draft.env.remove(key);\n", "        draft.env.insert(key.clone(), secret.expose().to_owned());\n",
     ["-p", "trundle", "--test", "e2e", "--", "secrets"]),
    ("an older journal means something else", "crates/engine/src/view/mod.rs",
     "lowest_floor: kept.map(|r| r.lowest_floor),", "lowest_floor: None,", ["-p", "trundle-engine", "--test", "golden"]),
    ("a head may have any number of fields", "crates/proxy/src/ask.rs",
     "head.headers.len() > route.limits.headers", "head.headers.len() > usize::MAX - route.limits.headers",
     ["-p", "trundle-proxy", "--test", "corpus"]),
    ("a body may drip for ever", "crates/proxy/src/turn.rs",
     "patience.body_rate == 0", "patience.body_rate < u64::MAX", ["-p", "trundle-proxy", "--test", "input", "dripping"]),
    ("a path that leads to two apps is taken as it stands", "crates/proxy/src/sites.rs",
     "        if self.has_paths {\n", "        if self.has_paths && false {\n", ["-p", "trundle-proxy", "--test", "sites"]),
    ("a drain does not wait for those who were told", "crates/proxy/src/settle.rs",
     "have_come >= told ||", "have_come < told || have_come >= told ||", ["-p", "trundle-proxy", "--test", "websocket"]),
    ("a cut of a connection of bytes counts as its end", "crates/proxy/src/tcp.rs",
     "End::Cut | End::Broken => drop(exchange.broken()),", "End::Cut | End::Broken => exchange.answered(),",
     ["-p", "trundle-proxy", "--test", "tcp"]),
    ("the last lines of an access log are lost", "crates/proxy/src/process.rs",
     "    director.borrow_mut().finish_logs(LOG_BOUND);\n", "    let _ = LOG_BOUND;\n", ["-p", "trundle-proxy", "--test", "access"]),
    ("a deploy opens what a person has closed", "crates/core/src/state/request.rs",
     "now.and_then(|listen| listen.maintenance.clone())", "now.and_then(|listen| listen.maintenance.clone()).filter(|_| false)",
     ["-p", "trundle-core", "--test", "settings"]),
    ("a worker is stopped without a word", "crates/drivers/src/process/instance.rs",
     "            && self.finish(quiet, record, shim).await\n", "            && false && self.finish(quiet, record, shim).await\n",
     ["-p", "trundle", "--test", "e2e", "--", "a_worker_that_is_told"]),
    ("an upgrade: a drain is proven by what one proxy has", "crates/proxy/src/counts.rs",
     "Slot::all().map(|slot| self.in_flight_of(row, slot).load(SeqCst)).sum()", "self.in_flight_of(row, self.slot).load(SeqCst)",
     ["-p", "trundle-proxy", "--test", "upgrade"]),
    ("an upgrade: what a killed one had is forgotten", "crates/proxy/src/director/succession.rs",
     "        counts.settle_killed(|slot| ended.contains(&slot));\n", "", ["-p", "trundle-proxy", "--test", "upgrade"]),
    ("an upgrade: a kept connection ends without a word", "crates/proxy/src/worker.rs",
     "self.each_connection(Connection::close_after_next)", "self.each_connection(Connection::close_when_idle)",
     ["-p", "trundle-proxy", "--test", "upgrade"]),
    ("an upgrade: the one before stays with its table", "crates/proxy/src/director/succession.rs",
     "if stamp == self.followed {", "if stamp == self.followed || true {", ["-p", "trundle-proxy", "--test", "upgrade"]),
    ("an upgrade: who takes over does not look at certificates", "crates/proxy/src/succession.rs",
     "        if let Some(files) = &app.tls {\n", "        if let Some(files) = &app.tls.as_ref().filter(|_| false) {\n",
     ["-p", "trundle-proxy", "--test", "upgrade"]),
    ("the end of an answer of HTTP/2 is thrown away", "crates/proxy/src/http2.rs",
     ".filter(|_| has_said_all)", ".filter(|_| has_said_all && false)", ["-p", "trundle-proxy", "--test", "http2_raw"]),
    ("gRPC streams are ended without a word", "crates/proxy/src/endless.rs",
     "Some(Frame::trailers(calls::unavailable()))", "None", ["-p", "trundle", "--test", "real", "--", "grpc"]),
]


def found_by(test: list[str]) -> list[str]:
    """The tests that failed; one line of the compiler if it did not come to that."""
    ran = subprocess.run(["cargo", "test", "-q", *test], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "RUST_BACKTRACE": "0"})
    if ran.returncode == 0:
        return []
    said = ran.stdout + ran.stderr
    failed = re.findall(r"^    ([a-z_:0-9]+)$", said, re.M)
    return sorted(set(failed)) or ["not tried: " + next((l for l in said.splitlines() if l.startswith("error")), said[-200:])]


def all_fit() -> int:
    """Without a build: what each replaces is in its file, once."""
    lost = [(name, file) for name, file, stands, _, _ in PLANTS if (ROOT / file).read_text().count(stands) != 1]
    for name, file in lost:
        print(f"plants.py: cannot be planted in {file}: {name}", file=sys.stderr)
    print(f"{len(PLANTS)} bugs can be planted" if not lost else f"{len(lost)} cannot")
    return 1 if lost else 0


def main(words: list[str]) -> int:
    if words == ["--texts"]:
        return all_fit()
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout:
        print("the work tree is not clean: commit or stash first", file=sys.stderr)
        return 2
    missed = 0
    for name, file, stands, planted, test in PLANTS:
        if words and not any(word in name for word in words):
            continue
        path = ROOT / file
        text = path.read_text()
        if text.count(stands) != 1:
            found = [f"not tried: {file} has {text.count(stands)} times: {stands.strip()}"]
        else:
            try:
                path.write_text(text.replace(stands, planted))
                found = found_by(test)
            finally:
                path.write_text(text)
        good = bool(found) and not found[0].startswith("not tried")
        missed += not good
        print("ok " if good else "BAD", f"{name:55}", "found by", ", ".join(found) or "nothing", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
