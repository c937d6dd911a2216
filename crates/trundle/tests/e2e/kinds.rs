//! Apps that are not eight servers behind one address, and rollouts that are not one good version after another: workers,
//! a fixed port, several apps in one daemon, one version over the other, failures that are borne.

use std::collections::BTreeMap;
use std::net::TcpListener;

use crate::bad_version::versions;
use crate::harness::prober::Prober;
use crate::harness::procs::Proc;
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample, wait_for};

const ONE_MORE: &str = "max_surge = 1\nmax_unavailable = 0\nhealthy_deadline = \"10s\"";

/// `trundle.toml` of an app that takes no requests: it is healthy while a command says so.
fn worker(name: &str, replicas: u32) -> String {
    // Long enough that who looks from outside has seen a new one before an old one leaves.
    let rollout = format!("{ONE_MORE}\nmin_healthy_time = \"500ms\"");
    let text = sample(replicas, r#"START_MS = "0""#, &rollout);
    let text = text.replace("\"web\"", &format!("\"{name}\""));
    let text = text.replace("[listen]\nhttp = \"@LISTEN@\"\n\n", "");
    text.replace("http = \"/ready\"", "exec = [\"test\", \"-e\", \"@DIR@/healthy\"]\ninterval = \"100ms\"")
}

#[test]
fn a_worker_rolls_without_an_address() {
    let site = Site::with(&worker("queue", 3));
    std::fs::write(site.dir().join("healthy"), "").unwrap();
    site.deploy("1", &[]).expect(0);
    let prober = Prober::start(&site);
    let said = site.deploy("2", &[]).expect(0);
    let seen = prober.finish();
    // Who else is alive is told by `status`: to an observer the check of a worker looks like a worker.
    assert!(seen.lowest_serving >= 3, "{seen:?}");
    let status = site.status();
    assert_eq!((&status["lowest_available"], &status["highest_total"]), (&3.into(), &4.into()), "{status}");
    assert_eq!(versions(&status), [("2".to_owned(), 3)].into(), "{status}");
    assert!(status["requests"].is_null(), "nobody counts what never comes: {status}");
    assert!(!said.stdout.contains("requests"), "{said}");
    assert!(!site.procs().iter().any(Proc::is_proxy), "a worker needs no proxy");

    // What its command says is what counts.
    std::fs::remove_file(site.dir().join("healthy")).unwrap();
    wait_for("three unready workers", 10, || (site.status()["available"] == 0).then_some(()));
    let bad = site.deploy("3", &["--set", "rollout.healthy_deadline=1s", "--timeout", "20s"]).expect(10);
    assert!(bad.stdout.contains("test -e"), "the card names the command: {bad}");
    // A check that runs at this moment looks like a worker too, and is gone a moment later.
    wait_for("the three, of whom nobody was stopped", 5, || {
        (site.apps().iter().filter(|p| p.env["TRUNDLE_VERSION"] == "2").count() == 3).then_some(())
    });
}

/// Takes one job after the other; once it was told to be quiet it takes no more, and says when it has nothing in its hands.
const TAKES_JOBS: &str = r#"
quiet=0
trap 'quiet=1' TSTP
while :; do
    if [ $quiet = 1 ]; then touch "idle.$TRUNDLE_INSTANCE"; sleep 0.05; continue; fi
    for job in todo/*; do
        mine="doing/$(basename "$job").$TRUNDLE_INSTANCE"
        mv "$job" "$mine" 2>/dev/null || continue
        sleep 0.4
        mv "$mine" done/
        break
    done
    sleep 0.02
done
"#;

/// What is left half done by a rollout in the middle of the work.
fn half_done(quiet: &str) -> (usize, Site) {
    let command = "command = [\"sh\", \"worker.sh\"]";
    let text = format!(
        "name = \"queue\"\nversion = \"1\"\nreplicas = 3\n[run]\n{command}\n{quiet}\n[health.ready]\nexec = [\"true\"]\n\
         [rollout]\nmax_surge = 1\nmax_unavailable = 0\n"
    );
    let site = Site::with(&text);
    std::fs::write(site.dir().join("worker.sh"), TAKES_JOBS).unwrap();
    ["todo", "doing", "done"].iter().for_each(|name| std::fs::create_dir(site.dir().join(name)).unwrap());
    let count = |name: &str| std::fs::read_dir(site.dir().join(name)).unwrap().count();
    site.deploy("1", &[]).expect(0);
    (0..20).for_each(|n| std::fs::write(site.dir().join(format!("todo/{n}")), "").unwrap());
    wait_for("work", 10, || (count("doing") == 3).then_some(()));
    site.deploy("2", &[]).expect(0);
    let of_old = || {
        let doing = std::fs::read_dir(site.dir().join("doing")).unwrap().flatten();
        doing.filter(|job| job.file_name().to_string_lossy().contains(".queue-1-")).count()
    };
    let half = of_old();
    wait_for("all of it", 30, || (count("todo") == 0 && count("doing") == of_old()).then_some(()));
    assert_eq!(count("done") + half, 20, "each was done once");
    (half, site)
}

#[test]
fn a_worker_that_is_told_finishes_what_it_has_and_takes_no_more() {
    let quiet = "[run.quiet]\nsignal = \"SIGTSTP\"\nfinished = [\"test\", \"-e\", \"idle.{instance}\"]";
    assert_eq!(half_done(quiet).0, 0);
    // One that is not told is stopped in the middle: the test above shows something.
    assert!(half_done("").0 > 0);
    // By a program, which is told whom it is about.
    let by_exec = "[run.quiet]\nexec = [\"sh\", \"-c\", \"kill -TSTP $(cat pid.{instance})\"]\n\
                   finished = [\"test\", \"-e\", \"idle.{instance}\"]\ntimeout = \"20s\"";
    let site = Site::with(&format!(
        "name = \"queue\"\nversion = \"1\"\n[run]\ncommand = [\"sh\", \"worker.sh\"]\n{by_exec}\n[health.ready]\nexec = [\"true\"]\n"
    ));
    let script = format!("echo $$ > pid.$TRUNDLE_INSTANCE\nmkdir -p todo doing done\n{TAKES_JOBS}");
    std::fs::write(site.dir().join("worker.sh"), script).unwrap();
    site.deploy("1", &[]).expect(0);
    site.deploy("2", &[]).expect(0);
    assert!(site.dir().join("idle.queue-1-1").exists(), "it was told, and said that it had finished");
}

/// The daemon that comes next tells the worker once more, and waits on.
#[test]
fn a_daemon_that_dies_while_a_worker_finishes_leaves_it_its_time() {
    let _turn = turn();
    let site = Site::with(
        "name = \"queue\"\nversion = \"1\"\n[run]\ncommand = [\"sh\", \"worker.sh\"]\n[run.quiet]\n\
         exec = [\"sh\", \"-c\", \"echo {instance} >> told\"]\nfinished = [\"test\", \"-e\", \"done\"]\ntimeout = \"60s\"\n\
         [health.ready]\nexec = [\"true\"]\n",
    );
    // It works for as long as the test says, and notes its end by a signal.
    let script = "trap 'echo stopped >> end; exit 0' TERM\nwhile :; do sleep 0.05; done\n";
    std::fs::write(site.dir().join("worker.sh"), script).unwrap();
    let read = |name: &str| std::fs::read_to_string(site.dir().join(name)).unwrap_or_default();
    site.deploy("1", &[]).expect(0);
    let rolling = site.start(&["deploy", "--set", "version=2"]);
    wait_for("the old one to be told", 30, || (read("told") == "queue-1-1\n").then_some(()));
    site.daemon().unwrap().kill9();
    // The command given again starts the next one, and follows.
    let again = site.start(&["deploy", "--set", "version=2"]);
    wait_for("the old one to be told once more", 30, || {
        (read("told") == "queue-1-1\nqueue-1-1\n").then_some(())
    });
    assert_eq!(read("end"), "", "it has not finished");
    assert_eq!(site.status()["live"], 2, "{}", site.status());
    std::fs::write(site.dir().join("done"), "").unwrap();
    let said = again.finish().expect(0);
    rolling.finish();
    assert_eq!(versions(&site.status()), [("2".to_owned(), 1)].into(), "{said}");
    assert_eq!(read("end"), "stopped\n");
}

#[test]
fn a_fixed_port_is_one_instance_at_a_time_and_its_clients_wait() {
    let _turn = turn();
    let site = Site::new();
    let port = site.spare_port();
    let text = sample(1, r#"START_MS = "500""#, "").replace("[run]\n", &format!("[run]\nport = {port}\n"));
    site.write(&text);
    site.deploy("1", &[]).expect(0);
    let plan = site.run(&["plan", "--set", "version=2", "--json"]).expect(0).json();
    assert_eq!(plan["floor"], 0, "one that stops first has nobody to serve meanwhile: {plan}");
    let said = site.run(&["plan", "--set", "version=2"]).expect(0).stdout;
    assert!(said.contains("for a moment none serves, what comes then waits, up to 30 s"), "{said}");
    let prober = Prober::start(&site);
    let load = load::start_quick(&site, 8, 5);
    let moved = site.deploy("2", &[]).expect(0);
    assert!(moved.stdout.contains("lost 0") && moved.stdout.contains("waited "), "{moved}");
    // Between two swaps they are served, so that enough of them meet the next one.
    let answer = || site.get("/").ok();
    for _ in 0..100 {
        wait_for("an answer of version 2", 10, answer);
    }
    site.deploy("3", &["--set", "run.env.FAIL=exit:3"]).expect(10);
    site.run(&["rollback"]).expect(0);
    load.finish().expect_none_lost(200);
    let seen = prober.finish();
    assert_eq!(seen.highest_alive, 1, "{seen:?}");
    assert_eq!(versions(&site.status()), [("2".to_owned(), 1)].into());
    assert_eq!(site.apps()[0].port(), Some(port));
    assert!(site.get("/").unwrap().contains("x-app-version: 2"));
    let two = site.deploy("4", &["--set", "replicas=2"]).expect(1);
    assert!(two.stderr.contains("port"), "{two}");
}

#[test]
fn several_apps_roll_at_once_and_each_has_its_own_end() {
    let _turn = turn();
    let site = Site::new();
    let others = [("api", 2), ("queue", 2), ("mail", 1)];
    std::fs::write(site.dir().join("healthy"), "").unwrap();
    let web = || site.write(&sample(4, r#"START_MS = "100""#, ONE_MORE));
    web();
    site.deploy("1", &[]).expect(0);
    for (name, replicas) in others {
        site.write(&worker(name, replicas));
        site.deploy("1", &[]).expect(0);
    }
    let load = load::start_quick(&site, 8, 2);
    let rolling: Vec<_> = others
        .iter()
        .map(|(name, replicas)| {
            let file = format!("{name}.toml");
            site.write(&worker(name, *replicas));
            std::fs::copy(site.dir().join("trundle.toml"), site.dir().join(&file)).unwrap();
            let fail = if *name == "mail" { "exit:7" } else { "" };
            let fail = format!("run.env.FAIL={fail}");
            site.start(&["deploy", "-f", &file, "--set", "version=2", "--set", &fail])
        })
        .collect();
    web();
    site.deploy("2", &[]).expect(0);
    let codes: Vec<i32> = rolling.into_iter().map(|running| running.finish().code).collect();
    assert_eq!(codes, [0, 0, 10], "api, queue, and mail, which dies at once");
    load.finish().expect_none_lost(100);
    let all = site.run(&["status", "--json"]).expect(0).json();
    let ends: BTreeMap<&str, &str> = all["apps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|app| (app["app"].as_str().unwrap(), app["rollout"]["state"].as_str().unwrap()))
        .collect();
    let expected = [("api", "succeeded"), ("mail", "paused"), ("queue", "succeeded"), ("web", "succeeded")];
    assert_eq!(ends, expected.into(), "{all}");
    // One taken down leaves the others alone.
    site.run(&["down", "api"]).expect(0);
    assert_eq!(site.apps().len(), 4 + 2 + 1);
    assert!(site.get("/").unwrap().contains("x-app-version: 2"));
}

/// Each new one takes a second: the next version comes while the one before is half there.
#[test]
fn one_version_over_the_other_over_the_other() {
    let _turn = turn();
    let site = Site::with(&sample(4, r#"START_MS = "0""#, ONE_MORE));
    site.deploy("1", &[]).expect(0);
    let (prober, load) = (Prober::start(&site), load::start_quick(&site, 8, 5));
    let begin = |version: &str| {
        let set = format!("version={version}");
        let running = site.start(&["deploy", "--set", &set, "--set", "run.env.START_MS=1000"]);
        wait_for("an instance of it that serves", 20, || {
            versions(&site.status()).get(version).is_some_and(|n| *n > 0).then_some(())
        });
        running
    };
    let (second, third) = (begin("2"), begin("3"));
    let mix = versions(&site.status());
    assert!(mix.len() >= 3, "three versions at once: {mix:?}");
    let last = site.deploy("4", &[]).expect(0);
    let (second, third) = (second.finish().expect(14), third.finish().expect(14));
    assert!(second.stderr.contains("rollout 3") && third.stderr.contains("rollout 4"), "{second}\n{third}");
    assert_eq!(versions(&site.status()), [("4".to_owned(), 4)].into(), "{last}");
    let seen = prober.finish();
    load.finish().expect_none_lost(100);
    assert!(seen.lowest_serving >= 4 && seen.highest_alive <= 5, "{seen:?}");
    // The way back leads to what succeeded, not to what was passed over.
    site.run(&["rollback"]).expect(0);
    assert_eq!(versions(&site.status()), [("1".to_owned(), 4)].into());
}

/// New ones die as long as what they need is away. Up to `max_failures` that is borne.
#[test]
fn a_wave_of_failures_is_borne_up_to_the_limit() {
    let _turn = turn();
    let config = format!("{ONE_MORE}\nmax_failures = 3");
    let site = Site::with(&sample(4, r#"START_MS = "0""#, &config));
    site.deploy("1", &[]).expect(0);
    let (prober, load) = (Prober::start(&site), load::start_quick(&site, 8, 5));
    let needs = format!("run.env.FAIL=dependency:127.0.0.1:{}", site.spare_port());

    let card = site.deploy("2", &["--set", &needs]).expect(10);
    let status = site.status();
    assert_eq!(status["rollout"]["failures"], 3, "{status}");
    assert_eq!(versions(&status), [("1".to_owned(), 4)].into(), "{status}");
    assert!(card.stdout.contains("cannot reach the cache"), "{card}");

    // Back after two more have died: nobody is asked. The third waits for it long enough that this can be seen from here.
    let rolling =
        site.start(&["deploy", "--set", &needs, "--set", "run.env.FAIL_MS=1500", "--set", "version=3"]);
    wait_for("two failures", 30, || {
        let rollout = &site.status()["rollout"];
        (rollout["to_version"] == "3" && rollout["failures"].as_u64() >= Some(2)).then_some(())
    });
    let cache = TcpListener::bind(("127.0.0.1", site.spare_port())).unwrap();
    let said = rolling.finish().expect(0);
    drop(cache);
    assert_eq!(versions(&site.status()), [("3".to_owned(), 4)].into(), "{said}");
    let seen = prober.finish();
    load.finish().expect_none_lost(100);
    assert!(seen.lowest_serving >= 4 && seen.highest_alive <= 5, "{seen:?}");
}
