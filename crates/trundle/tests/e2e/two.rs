//! Two people at once, and what a command must not hand on to what it starts.

use std::io::Read;
use std::process::Command;

use crate::harness::{Site, sample, scaled, wait_for};

const SURGE: &str = "max_surge = 1\nmax_unavailable = 0";

/// Both ask at the same moment; exactly one wins, and the other is told by whom it was beaten.
#[test]
fn two_deploys_at_once() {
    let site = Site::with(&sample(2, r#"START_MS = "300""#, SURGE));
    site.deploy("1.0", &[]).expect(0);
    for round in 0..scaled(3, 50) {
        let versions = [format!("2.{round}"), format!("3.{round}")];
        let start = |version: &String, user: &str| {
            let mut command = site.command(&["deploy", "--set", &format!("version={version}")]);
            command.env("USER", user).env_remove("SUDO_USER");
            crate::harness::Running::of(command)
        };
        let (ann, bob) = (start(&versions[0], "ann"), start(&versions[1], "bob"));
        let ended = [(ann.finish(), 0), (bob.finish(), 1)];
        let [(winner, won), (loser, _)] = &ended.each_ref().map(|(said, n)| (said, *n));
        let (winner, won, loser) =
            if winner.code == 0 { (winner, *won, loser) } else { (loser, 1 - *won, winner) };
        assert_eq!(winner.code, 0, "one wins:\n{winner}\n{loser}");
        assert!(matches!(loser.code, 13 | 14), "exit {}\n{loser}\n{winner}", loser.code);
        let person = ["ann", "bob"][won];
        assert!(
            loser.stderr.contains(&versions[won]) && loser.stderr.contains(person),
            "the loser is told by what and by whom:\n{loser}"
        );
        let serving = crate::bad_version::versions(&site.status());
        assert_eq!(serving, [(versions[won].clone(), 2)].into(), "{winner}\n{loser}");
    }
}

/// A job that waits for the end of its pipe must not wait for the daemon.
#[test]
fn what_a_command_starts_holds_none_of_its_descriptors() {
    let site = Site::with(&sample(2, r#"START_MS = "0""#, SURGE));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new("sh");
    // The pipe comes in as standard input; the shell hands it on as descriptor 9 and nothing else.
    command.args(["-c", "exec 9>&0 0</dev/null && exec \"$@\"", "sh"]).arg(site.bin()).arg("deploy");
    let like = site.command(&[]);
    command.current_dir(like.get_current_dir().unwrap());
    command.envs(like.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let said = command.stdin(writer).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // With it the writing end in our hands.
    drop(command);
    let eof = std::thread::spawn(move || {
        let mut reader = reader;
        reader.read_to_end(&mut Vec::new())
    });
    wait_for("the end of the pipe", 5, || eof.is_finished().then_some(()));
    assert_eq!(eof.join().unwrap().unwrap(), 0);
    assert!(site.daemon().is_some() && site.apps().len() == 2, "they live on");
    // What lives long reads from nobody, and stands in no folder that somebody may want to remove.
    for proc in site.procs().into_iter().filter(|proc| !proc.is_proxy()) {
        let stdin = std::fs::read_link(format!("/proc/{}/fd/0", proc.pid)).unwrap();
        assert_eq!(stdin.to_str(), Some("/dev/null"), "{:?}", proc.args);
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", proc.pid)).unwrap();
        assert!(proc.app().is_some() || cwd.to_str() == Some("/"), "{:?} is in {cwd:?}", proc.args);
    }
}
