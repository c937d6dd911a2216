//! What comes from outside and means harm: names, what an app prints, and what stands in an environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Running, Site, sample, wait_for};

/// Nothing that a terminal obeys, but the end of a line.
#[track_caller]
fn expect_inert(what: &str, text: &str) {
    let harm = text.chars().find(|c| {
        (c.is_control() && *c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    });
    assert!(harm.is_none(), "{what} sends {harm:?} to the terminal: {text:?}");
}

const NAMES_FROM_HELL: [&str; 23] = [
    "",
    " ",
    ".",
    "..",
    "../x",
    "../../etc/passwd",
    "/etc/passwd",
    "web/x",
    "web/../../x",
    "web-1-1/..",
    "-rf",
    "a;b",
    "$(touch hit)",
    "`touch hit`",
    "a|touch hit",
    "a\nb",
    "a\r",
    "\u{1b}[2J",
    "\u{9b}2J",
    "web\u{202e}",
    "wеb",
    "ｗｅｂ",
    "{port}",
];

/// Row 51. Whatever takes a name: it is refused in harmless words, and nothing else happens.
#[test]
fn names_from_hell_reach_nothing() {
    let site = Site::with(&sample(1, r#"START_MS = "0""#, "max_surge = 1"));
    site.deploy("1.0", &[]).expect(0);
    let before = (site.state_of_affairs(), fs::read_dir(site.dir().parent().unwrap()).unwrap().count());
    let long = "a".repeat(300);
    for (n, name) in NAMES_FROM_HELL.iter().copied().chain([long.as_str(), "-"]).enumerate() {
        let (version, app) = (format!("version={name}"), format!("name={name}"));
        let commands: [&[&str]; 9] = [
            &["deploy", "--set", &version],
            &["plan", "--set", &app, "--json"],
            &["status", name, "--json"],
            &["logs", name],
            &["retry", name],
            &["deploy", "--set", &app],
            &["rollback", name],
            &["report", name],
            &["down", name],
        ];
        // The last four read names as the first five do: a few are enough.
        let commands = if n % 5 == 0 { &commands[..] } else { &commands[..5] };
        for command in commands {
            let said = site.run(command);
            assert!(matches!(said.code, 1 | 2), "{command:?} ended with {}\n{said}", said.code);
            expect_inert(&format!("{command:?}"), &said.stdout);
            expect_inert(&format!("{command:?}"), &said.stderr);
            assert!(said.stderr.len() + said.stdout.len() < 4000, "{command:?} says too much:\n{said}");
        }
    }
    assert_eq!(site.state_of_affairs(), before.0);
    assert!(!site.dir().join("hit").exists());
}

impl Site {
    /// Who runs, and which files there are outside the books.
    fn state_of_affairs(&self) -> (BTreeSet<(u32, u64)>, Vec<PathBuf>) {
        let mut files = Vec::new();
        below(self.dir(), &mut files);
        files.retain(|path| !path.to_string_lossy().contains("journal"));
        files.sort();
        (self.procs().iter().map(|proc| (proc.pid, proc.start)).collect(), files)
    }
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            below(&entry.path(), found);
        }
        found.push(entry.path());
    }
}

/// What it prints, and how that is shown.
const PRINTED: [(&str, &str); 11] = [
    (r"plain", "plain"),
    (r"\033]0;title\007osc", r"\u{1b}]0;title\u{7}osc"),
    (r"\033[2J\033[1;31mcsi\033[0m", r"\u{1b}[2J\u{1b}[1;31mcsi\u{1b}[0m"),
    (r"\033P$qm\033\\dcs", r"\u{1b}P$qm\u{1b}\dcs"),
    (r"over\rwritten\r", r"over\u{d}written"),
    (r"\302\2332J as one", r"\u{9b}2J as one"),
    (r"a\bb\177c", r"a\u{8}b\u{7f}c"),
    (r"nul\000nul", r"nul\u{0}nul"),
    (r"\377\376 invalid", "\u{fffd}\u{fffd} invalid"),
    (r"\342\200\256turned", r"\u{202e}turned"),
    (r"tab\tend", "tab    end"),
];

/// Row 52: golden, of the command itself.
#[test]
fn what_an_app_prints_is_shown_and_never_obeyed() {
    let site = Site::new();
    let mut script: String = PRINTED.iter().map(|(bytes, _)| format!("printf '{bytes}\\n'\n")).collect();
    script.push_str("head -c 100000 /dev/zero | tr '\\0' x\necho\nprintf 'half a \\033line'\n");
    script.push_str("test -z \"$FAIL\" || exit 3\nexec sleep 1000\n");
    fs::write(site.dir().join("hostile.sh"), script).unwrap();
    // Ready when all of it is in the log, whole.
    let text = "name = \"hostile\"\nversion = \"1.0\"\nreplicas = 1\n\n[run]\ncommand = [\"sh\", \"hostile.sh\"]\n\n\
                [health.ready]\nexec = [\"grep\", \"-qa\", \"^half a\", \"@DIR@/state/instances/hostile/1-1/log\"]\n\n\
                [rollout]\nmin_healthy_time = \"500ms\"\n";
    site.write(text);
    site.deploy("1.0", &[]).expect(0);

    let mut golden: Vec<String> = PRINTED.iter().map(|(_, shown)| (*shown).to_owned()).collect();
    golden.push(format!("{}…", "x".repeat(4096)));
    golden.push(r"half a \u{1b}line".to_owned());
    let said = site.run(&["logs", "hostile"]).expect(0);
    assert_eq!(said.stdout.lines().collect::<Vec<_>>(), golden);
    expect_inert("logs", &said.stdout);

    let said = site.run(&["logs", "hostile", "--json"]).expect(0);
    expect_inert("logs --json", &said.stdout);
    let lines = said.json()["lines"].as_array().unwrap().clone();
    let texts: Vec<&str> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts, golden);
    assert!(lines.iter().all(|line| line["instance"] == "hostile-1-1"));

    // Followed: what comes after the beginning of a line, too.
    let shown = site.dir().join("shown");
    let mut follow = site.command(&["logs", "hostile", "-f", "-n", "1"]);
    let mut follow = follow.stdout(fs::File::create(&shown).unwrap()).spawn().unwrap();
    wait_for("the last line", 20, || fs::read(&shown).is_ok_and(|text| !text.is_empty()).then_some(()));
    let log = site.state().join("instances/hostile/1-1/log");
    let mut log = fs::OpenOptions::new().append(true).open(log).unwrap();
    std::io::Write::write_all(&mut log, b"\n\x1b[2Jfollowed\r\n").unwrap();
    let text = wait_for("what was added", 20, || {
        fs::read_to_string(&shown).ok().filter(|text| text.contains("followed"))
    });
    follow.kill().unwrap();
    follow.wait().unwrap();
    expect_inert("logs -f", &text);
    assert!(text.ends_with("\\u{1b}[2Jfollowed\n"), "{text:?}");

    // The same lines on a card, and in the answers about it.
    let said = site.deploy("2.0", &["--set", "run.env.FAIL=1"]).expect(10);
    assert!(said.stdout.contains(r"\u{1b}[2J\u{1b}[1;31mcsi"), "{said}");
    expect_inert("the card", &said.stdout);
    for command in ["status", "status --json", "history", "report", "report --json"] {
        let said = site.run(&command.split(' ').collect::<Vec<_>>());
        expect_inert(command, &said.stdout);
    }
}

const INJECTED: [&str; 12] = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "GCONV_PATH",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PERL5OPT",
    "RUBYOPT",
    "NODE_OPTIONS",
    "JAVA_TOOL_OPTIONS",
    "BASH_ENV",
    "ENV",
];

/// Row 61. The daemon's own environment, and that of the command which asks for a deploy.
#[test]
fn no_variable_of_the_daemon_injects_code_into_an_instance() {
    let site = Site::new();
    let text = sample(2, r#"GIVEN = "yes""#, "max_surge = 1")
        .replace(r#"["@BIN@", "sample"]"#, r#"["bash", "-c", "exec @BIN@ sample"]"#)
        .replace(
            "[health.ready]",
            "[health.startup]\nexec = [\"bash\", \"-c\", \"env >> @DIR@/probe\"]\n\n[health.ready]",
        );
    site.write(&text);
    let hit = site.dir().join("hit");
    fs::write(site.dir().join("inject"), format!("echo $0 >> {}\n", hit.display())).unwrap();
    let inject = |command: &mut Command| {
        for name in INJECTED {
            command.env(name, site.dir().join("inject"));
        }
    };
    let mut daemon = site.command(&["daemon"]);
    inject(&mut daemon);
    let null = || std::process::Stdio::null();
    let mut daemon = daemon.stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
    wait_for("the daemon", 20, || site.daemon().filter(|_| site.state().join("daemon.sock").exists()));
    assert!(
        INJECTED.iter().all(|name| site.daemon().unwrap().env.contains_key(*name)),
        "the daemon has them"
    );
    let mut deploy = site.command(&["deploy"]);
    inject(&mut deploy);
    Running::of(deploy).finish().expect(0);

    let allowed = [
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "USER",
        "PORT",
        "GIVEN",
        "TRUNDLE_APP",
        "TRUNDLE_VERSION",
        "TRUNDLE_REVISION",
        "TRUNDLE_INSTANCE",
        "TRUNDLE_STATE_DIR",
        "TRUNDLE_GATES",
    ];
    let apps = site.apps();
    assert_eq!(apps.len(), 2);
    // bash adds some of its own.
    let of_bash = ["PWD", "SHLVL", "_", "OLDPWD"];
    for app in &apps {
        let foreign: Vec<_> =
            app.env.keys().filter(|key| !allowed.contains(&&***key) && !of_bash.contains(&&***key)).collect();
        assert!(foreign.is_empty(), "{:?} has {foreign:?}", app.args);
        assert_eq!(app.env["GIVEN"], "yes");
    }
    let shims: Vec<_> = site
        .procs()
        .into_iter()
        .filter(|p| p.app().is_none() && p.env.contains_key("TRUNDLE_INSTANCE"))
        .collect();
    assert_eq!(shims.len(), 2);
    for shim in shims {
        let keys: Vec<_> = shim.env.keys().map(String::as_str).collect();
        assert_eq!(keys, ["TRUNDLE_INSTANCE", "TRUNDLE_STATE_DIR"], "{:?}", shim.args);
    }
    let probe = fs::read_to_string(site.dir().join("probe")).unwrap();
    assert!(probe.contains("GIVEN=yes"), "{probe}");
    let injected = |line: &&str| INJECTED.iter().any(|name| line.starts_with(&format!("{name}=")));
    assert_eq!(probe.lines().find(injected), None, "in the environment of a check");
    assert!(!hit.exists(), "code was run: {:?}", fs::read_to_string(&hit));
    site.run(&["down"]).expect(0);
    daemon.wait().unwrap();
}

/// Row 62. A core dump holds what its process held in memory: who holds secrets leaves none, and the app keeps the limit that
/// its user has.
#[test]
fn who_holds_secrets_leaves_no_core_dump() {
    const BLOCKS: u32 = 16;
    let site = Site::new();
    site.write(&sample(2, "", "max_surge = 1").replace("[run]\n", "[run]\nsecrets = [\"API_TOKEN\"]\n"));
    let like = site.command(&["deploy"]);
    let with_limit = |limit: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -S -c {limit} && exec \"$@\""), "sh"]);
        command.arg(site.bin()).arg("deploy").current_dir(site.dir());
        command.envs(like.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.env("API_TOKEN", "canary-in-the-core");
        Running::of(command).finish()
    };
    with_limit(&BLOCKS.to_string()).expect(0);
    let limit = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap().to_owned();
        line.split_whitespace().next().unwrap().to_owned()
    };
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for proc in site.procs() {
        let kind = match () {
            () if proc.app().is_some() => "app",
            () if proc.is_daemon() => "daemon",
            () if proc.is_proxy() => "proxy",
            () => "shim",
        };
        seen.entry(kind).or_default().insert(limit(proc.pid));
    }
    let one = |text: &str| BTreeSet::from([text.to_owned()]);
    // A block of `ulimit` has 512 bytes.
    let app = (u64::from(BLOCKS) * 512).to_string();
    let expected = [("app", one(&app)), ("daemon", one("0")), ("proxy", one("0")), ("shim", one("0"))];
    assert_eq!(seen, BTreeMap::from(expected));
}
