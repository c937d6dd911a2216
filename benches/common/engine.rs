//! A Docker engine with a swarm of one node, in network, mount and process namespaces of its own: nothing of it is left when
//! it ends, and an engine that the machine has is not touched.
//!
//! Swarm's own balancing needs IPVS, which not every kernel has. So the service is `dnsrr`, and nginx in the overlay network
//! asks the engine's DNS each second, as Docker's documentation advises for a load balancer of one's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, TRUNDLE, processes_with};

const IMAGE: &str = "trundle-bench";
const GATE: &str = "127.0.0.1:8000";
const PATIENCE: Duration = Duration::from_secs(60);
/// `/bin/sh` of the image is bash, which can open a connection by itself.
const CHECK: &str = "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /ready HTTP/1.0\\r\\n\\r\\n' >&3 && \
                     read -r _ code _ <&3 && [ \"$code\" = 200 ]";

pub struct Swarm {
    dir: PathBuf,
    /// Its end is the end of everything in the namespaces.
    unshare: Child,
    nginx: Option<Child>,
    gate: u32,
    marker: String,
    /// The control group of all containers.
    group: String,
}

impl Swarm {
    /// A running service with these variables for its app. An error says what was missing.
    pub fn begin(replicas: u32, env: &[(&str, u64)]) -> Result<Self, String> {
        for program in [
            "dockerd",
            "docker",
            "containerd",
            "runc",
            "iptables",
            "ip",
            "nginx",
            "unshare",
            "nsenter",
            "bash",
        ] {
            found(program)?;
        }
        let id = std::process::id();
        let dir = std::env::temp_dir().join(format!("trundle-bench-swarm-{id}"));
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let group = format!("trundle-bench-{id}");
        let unshare = dockerd(&dir, &group)?;
        let marker = format!("TRUNDLE_BENCH={id}-");
        let mut swarm = Self { dir, unshare, nginx: None, gate: 0, marker, group };
        swarm.wait_for_engine()?;
        swarm.image()?;
        swarm.docker(&[
            "swarm",
            "init",
            "--advertise-addr",
            "127.0.0.1",
            "--listen-addr",
            "127.0.0.1:2377",
        ])?;
        swarm.docker(&["network", "create", "-d", "overlay", "--attachable", "bench"])?;
        swarm.service(replicas, env)?;
        swarm.gate()?;
        Ok(swarm)
    }

    /// In the environment of each of its apps, and of nothing else.
    pub fn marker(&self) -> &str {
        &self.marker
    }

    pub fn about(&self) -> String {
        let version = self.docker(&["version", "-f", "{{.Server.Version}}"]).unwrap_or_default();
        format!(
            "Docker {}: `--update-order start-first --update-delay 0s --update-monitor 100ms --endpoint-mode dnsrr`, behind nginx.",
            version.trim()
        )
    }

    /// The command has ended when the request was taken.
    pub fn update(&self, version: &str, at_once: u32) -> Child {
        let (at_once, version) = (at_once.to_string(), format!("TRUNDLE_VERSION={version}"));
        let mut command = self.command(&["service", "update", "--detach", "--no-resolve-image", "-q"]);
        command.args(["--update-parallelism", &at_once, "--env-add", &version, "web"]);
        command.stdout(Stdio::null()).spawn().unwrap()
    }

    /// Swarm watches what it has just started for a while. An error: it paused the update, and says why.
    pub fn wait_for_the_end(&self) -> Result<(), String> {
        let status = "{{.UpdateStatus.State}}: {{.UpdateStatus.Message}}";
        let began = Instant::now();
        loop {
            let told = self.docker(&["service", "inspect", "web", "-f", status])?;
            if told.starts_with("completed") {
                return Ok(());
            }
            if !told.starts_with("updating") || began.elapsed() > PATIENCE {
                return Err(told.trim().to_owned());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The strict client, at nginx.
    pub fn load(&self, connections: u32, pause_ms: u32) -> Child {
        let mut inside = self.inside();
        inside.arg(TRUNDLE);
        common::load(inside, GATE, connections, pause_ms)
    }

    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.gate.to_string(), "-n"]);
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        let socket = format!("unix://{}", self.dir.join("socket").display());
        command.args(["-H", &socket]).args(args).env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        command.stdin(Stdio::null());
        command
    }

    fn docker(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command(args).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        output.status.success().then_some(()).ok_or_else(|| format!("docker {args:?}: {said}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn wait_for_engine(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while let Err(why) = self.docker(&["info"]) {
            let ended = self.unshare.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(format!("dockerd does not come up ({ended:?}): {why} {last:#?}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The program that is measured, a shell for the check, and the libraries of both: no registry is needed.
    fn image(&self) -> Result<(), String> {
        let script = format!(
            "set -e; r=$0/root; mkdir -p $r/bin; cp {TRUNDLE} $r/trundle; cp \"$(command -v bash)\" $r/bin/sh\n\
             for l in $(ldd {TRUNDLE} $r/bin/sh | grep -o ' /[^ ]*' | sort -u); do\n\
             mkdir -p \"$r$(dirname $l)\"; cp -L $l $r$l; done; for l in /lib64/ld-linux-*; do\n\
             [ ! -e $l ] || {{ mkdir -p $r/lib64; cp -L $l $r/lib64; }}; done; tar -C $r -cf $0/image.tar ."
        );
        let made =
            Command::new("bash").args(["-c", &script]).arg(&self.dir).status().map_err(|e| e.to_string())?;
        made.success().then_some(()).ok_or("the image could not be made")?;
        self.docker(&["import", &self.dir.join("image.tar").display().to_string(), IMAGE]).map(|_| ())
    }

    fn service(&self, replicas: u32, env: &[(&str, u64)]) -> Result<(), String> {
        let (replicas, marker) = (replicas.to_string(), format!("{}app", self.marker));
        let mut args = vec!["service", "create", "-q", "--name", "web", "--replicas", &replicas];
        args.extend(["--network", "bench", "--endpoint-mode", "dnsrr", "--no-resolve-image"]);
        args.extend(["--update-order", "start-first", "--update-delay", "0s", "--update-monitor", "100ms"]);
        args.extend(["--stop-grace-period", "30s", "--health-cmd", CHECK]);
        args.extend(["--health-interval", "1s", "--health-timeout", "1s", "--health-retries", "3"]);
        let env: Vec<String> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        for pair in &env {
            args.extend(["-e", pair.as_str()]);
        }
        args.extend(["-e", &marker, "-e", "HOST=0.0.0.0", "-e", "PORT=8080", "-e", "TRUNDLE_VERSION=0"]);
        args.extend([IMAGE, "/trundle", "sample"]);
        self.docker(&args).map(|_| ())
    }

    /// A container that only holds its network: nginx and the client run in it.
    fn gate(&mut self) -> Result<(), String> {
        let marker = format!("TRUNDLE_BENCH_GATE={}", std::process::id());
        self.docker(&[
            "run",
            "-d",
            "--network",
            "bench",
            "-e",
            &marker,
            "-e",
            "PORT=9",
            IMAGE,
            "/trundle",
            "sample",
        ])?;
        let held = |p: &common::Process| p.is_sample();
        self.gate = processes_with(&marker).iter().find(|p| held(p)).ok_or("the gate's container ended")?.pid;
        let dir = self.dir.display();
        let temps = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temps: String = temps.iter().map(|of| format!("{of}_temp_path {dir}/nginx-{of};\n")).collect();
        let text = format!(
            "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.log; events {{}}\n\
             http {{ access_log off; {temps} resolver 127.0.0.11 valid=1s ipv6=off;\n\
             server {{ listen {GATE}; location / {{ set $web web; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_pass http://$web:8080$request_uri; }} }} }}\n"
        );
        let path = self.dir.join("nginx.conf");
        std::fs::write(&path, text).map_err(|e| e.to_string())?;
        let mut nginx = self.inside();
        nginx.args(["nginx", "-c"]).arg(&path).arg("-p").arg(&self.dir).stdin(Stdio::null());
        self.nginx = Some(nginx.spawn().map_err(|e| e.to_string())?);
        self.answers()
    }

    /// nginx listens, and asks the service.
    fn answers(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let load = self.load(1, 1);
            std::thread::sleep(Duration::from_millis(200));
            let tally = common::finish(load);
            if tally["lost"] == 0 {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("nginx gets no answer: {tally}"));
            }
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for child in self.nginx.iter_mut().chain([&mut self.unshare]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Control groups and mounts are free a moment after their last process.
        std::thread::sleep(Duration::from_secs(1));
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_groups(&controller.path().join(&self.group));
        }
        remove_groups(&Path::new("/sys/fs/cgroup").join(&self.group));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Deepest first; their files cannot be removed and need not be.
fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}

fn found(program: &str) -> Result<(), String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let there = path.split(':').any(|dir| Path::new(dir).join(program).exists());
    there.then_some(()).ok_or_else(|| {
        format!("there is no {program} on this machine (Debian: apt-get install docker.io containerd runc iptables iproute2 nginx-light)")
    })
}

/// Needs root. A shell is the first process, since it buries whatever is left by others.
fn dockerd(dir: &Path, group: &str) -> Result<Child, String> {
    let script = format!(
        "ip link set lo up && echo 1 >/proc/sys/net/ipv4/ip_forward || exit 1\n\
         dockerd --data-root \"$0/data\" --exec-root \"$0/exec\" --pidfile \"$0/pid\" -H \"unix://$0/socket\" \
         --cgroup-parent /{group} >\"$0/log\" 2>&1 & wait $!"
    );
    Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script])
        .arg(dir)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())
}
