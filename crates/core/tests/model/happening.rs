//! What can happen in the model's world, one thing at a time, each a line of a scenario.

use std::fmt;
use std::str::FromStr;

use trundle_core::event::{DrainProof, Exit, Fact, RefusalCode};
use trundle_core::ids::InstanceKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// A driver or the router says so of an instance, true or not.
    See(InstanceKey, Seen),
    /// Time passes until something becomes true by itself.
    Tick,
    /// Time passes until just before that.
    Nearly,
    /// One pass of the decision: only where searches interleave.
    Decide,
    Deploy(u32),
    Pause,
    Resume,
    Abort,
    Rollback,
    Restart,
    Down,
    Scale(u32),
    Retry(InstanceKey),
    Skip(InstanceKey),
    /// The machine is started anew.
    Reboot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Started,
    Refused,
    Ready,
    Unready,
    NotLive,
    Exited,
    Gone,
    Unknown,
    Routed,
    Unrouted,
    Drained,
}

impl Seen {
    pub const ALL: [(Self, &str); 11] = [
        (Self::Started, "started"),
        (Self::Refused, "refused"),
        (Self::Ready, "ready"),
        (Self::Unready, "unready"),
        (Self::NotLive, "not_live"),
        (Self::Exited, "exited"),
        (Self::Gone, "gone"),
        (Self::Unknown, "unknown"),
        (Self::Routed, "routed"),
        (Self::Unrouted, "unrouted"),
        (Self::Drained, "drained"),
    ];

    pub fn fact(self) -> Fact {
        match self {
            Self::Started => Fact::Started { pid: 1, address: None, incarnation: "first".into() },
            Self::Refused => Fact::StartRefused { code: RefusalCode::System, text: "no".to_owned() },
            Self::Ready => Fact::Ready,
            Self::Unready => Fact::Unready,
            Self::NotLive => Fact::NotLive,
            Self::Exited => Fact::Exited(Exit { code: Some(1), signal: None }),
            Self::Gone => Fact::Gone,
            Self::Unknown => Fact::Unknown,
            Self::Routed => Fact::Routed(true),
            Self::Unrouted => Fact::Routed(false),
            Self::Drained => Fact::Drained { proof: DrainProof::Proven },
        }
    }
}

impl Happening {
    /// Whether a person did it.
    pub fn is_command(self) -> bool {
        match self {
            Self::Deploy(_)
            | Self::Pause
            | Self::Resume
            | Self::Abort
            | Self::Rollback
            | Self::Restart
            | Self::Down
            | Self::Scale(_)
            | Self::Retry(_)
            | Self::Skip(_) => true,
            Self::See(..) | Self::Tick | Self::Nearly | Self::Decide | Self::Reboot => false,
        }
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::See(key, seen) => {
                let word = Seen::ALL.iter().find(|(s, _)| s == seen).map_or("?", |(_, word)| word);
                write!(f, "{key} {word}")
            }
            Self::Tick => write!(f, "tick"),
            Self::Nearly => write!(f, "nearly"),
            Self::Decide => write!(f, "decide"),
            Self::Deploy(version) => write!(f, "deploy {version}"),
            Self::Pause => write!(f, "pause"),
            Self::Resume => write!(f, "resume"),
            Self::Abort => write!(f, "abort"),
            Self::Rollback => write!(f, "rollback"),
            Self::Restart => write!(f, "restart"),
            Self::Down => write!(f, "down"),
            Self::Scale(n) => write!(f, "scale {n}"),
            Self::Retry(key) => write!(f, "retry {key}"),
            Self::Skip(key) => write!(f, "skip {key}"),
            Self::Reboot => write!(f, "reboot"),
        }
    }
}

impl FromStr for Happening {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = || rest.parse::<u32>().map_err(|e| format!("{line}: {e}"));
        let place = |name: &str| name.parse::<InstanceKey>().map_err(|e| format!("{line}: {e}"));
        Ok(match first {
            "tick" => Self::Tick,
            "nearly" => Self::Nearly,
            "decide" => Self::Decide,
            "deploy" => Self::Deploy(number()?),
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "abort" => Self::Abort,
            "rollback" => Self::Rollback,
            "restart" => Self::Restart,
            "down" => Self::Down,
            "scale" => Self::Scale(number()?),
            "retry" => Self::Retry(place(rest)?),
            "skip" => Self::Skip(place(rest)?),
            "reboot" => Self::Reboot,
            _ => {
                let seen = Seen::ALL.iter().find(|(_, word)| *word == rest);
                let (seen, _) = seen.ok_or_else(|| format!("{line} is no line of a scenario"))?;
                Self::See(place(first)?, *seen)
            }
        })
    }
}
