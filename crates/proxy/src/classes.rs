//! The classes in which a request can end that is not simply answered, and where an app's row counts them.

/// Why a request was lost. The order is that of the words in the file: only ever append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    NoEndpoint,
    ConnectFailed,
    BadResponse,
    ResponseTimeout,
    ProxyStopped,
    ProxyKilled,
}

impl Lost {
    pub const ALL: [Self; 6] = [
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::BadResponse,
        Self::ResponseTimeout,
        Self::ProxyStopped,
        Self::ProxyKilled,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::BadResponse => "bad_response",
            Self::ResponseTimeout => "response_timeout",
            Self::ProxyStopped => "proxy_stopped",
            Self::ProxyKilled => "proxy_killed",
        }
    }
}

/// What a client has in an instance, as far as it matters for how it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has an end of its own: a request, an upload, a download, a long poll.
    Request,
    WebSocket,
    /// Server-Sent Events.
    Events,
    /// An answer of gRPC that was still open when it had to move.
    Grpc,
    /// A connection that carries bytes and no HTTP.
    Tcp,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Request, Self::WebSocket, Self::Events, Self::Grpc, Self::Tcp];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::WebSocket => "websocket",
            Self::Events => "events",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// What came of requests that could have met either of two versions. Each may be of any class besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixed {
    /// Asked for a version, and got it.
    Asked,
    /// Asked for a version that nobody served.
    AskedGone,
    /// Would have gone back to an older version than its client had seen.
    Held,
    /// Went back, as the newer version had nobody.
    WentBack,
    /// Had nothing at one version, and was served by another.
    Across,
    /// Had nothing at any of them.
    Missing,
    /// Went to another version as well, and both answers were compared; those that differ; those that would have been too many.
    Mirrored,
    MirrorDiffers,
    MirrorSkipped,
}

impl Mixed {
    pub const ALL: [Self; 9] = [
        Self::Asked,
        Self::AskedGone,
        Self::Held,
        Self::WentBack,
        Self::Across,
        Self::Missing,
        Self::Mirrored,
        Self::MirrorDiffers,
        Self::MirrorSkipped,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::AskedGone => "asked_gone",
            Self::Held => "held_from_going_back",
            Self::WentBack => "went_back",
            Self::Across => "across_versions",
            Self::Missing => "missing_everywhere",
            Self::Mirrored => "mirrored",
            Self::MirrorDiffers => "mirror_differs",
            Self::MirrorSkipped => "mirror_skipped",
        }
    }
}

/// A word of an app's row.
#[derive(Debug, Clone, Copy)]
pub enum AppCell {
    Crashed,
    Cut,
    Told,
    AppErrors,
    Rejected,
    Retried,
    /// Answers of versions whose rows were given to newer ones.
    Forgotten,
    /// Requests that waited for an instance while there was none.
    Held,
    Lost(Lost),
    /// Of those that were told or cut, the ones of this kind.
    ToldOf(Kind),
    CutOf(Kind),
    Mixed(Mixed),
    Window(WindowCell),
}

/// How far clients of a window have come that are known by a header.
#[derive(Debug, Clone, Copy)]
pub enum WindowCell {
    Number,
    /// The newest, and below which place clients have been with it.
    Revision,
    Reached,
    /// One before it, and the same of that.
    Before,
    BeforeReached,
}

impl AppCell {
    /// What became of a request that counts here, in one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Cut | Self::CutOf(_) => "cut",
            Self::Told | Self::ToldOf(_) => "told",
            Self::Rejected => "rejected",
            Self::Lost(_) => "lost",
            Self::AppErrors
            | Self::Retried
            | Self::Forgotten
            | Self::Held
            | Self::Mixed(_)
            | Self::Window(_) => "answered",
        }
    }

    /// Its place among the words of the row. These are in files of older versions: only ever append.
    pub fn offset(self) -> usize {
        match self {
            Self::Crashed => 0,
            Self::Cut => 1,
            Self::Told => 2,
            Self::AppErrors => 3,
            Self::Rejected => 4,
            Self::Retried => 5,
            Self::Forgotten => 6,
            Self::Held => 7,
            Self::Lost(reason) => 8 + reason as usize,
            // An app's row has no histogram: its room is there for more of these.
            Self::ToldOf(kind) => 32 + kind as usize,
            Self::CutOf(kind) => 48 + kind as usize,
            Self::Mixed(what) => 64 + what as usize,
            Self::Window(what) => 96 + what as usize,
        }
    }
}

/// A word of a version's row, beside the number of its answers and their times.
#[derive(Debug, Clone, Copy)]
pub enum VersionCell {
    /// Answers whose status has this first digit, 1 to 5.
    Status(u16),
    /// Of the bodies of requests, as they were sent to an instance, and of what clients sent on WebSockets.
    BytesUp,
    /// The same of answers, as they were given to clients.
    BytesDown,
}

impl VersionCell {
    /// Its place among the words of the row. These are in files of older versions: only ever append.
    pub fn offset(self) -> usize {
        match self {
            Self::Status(digit) => 2 + usize::from(digit.clamp(1, 5) - 1),
            Self::BytesUp => 7,
            Self::BytesDown => 8,
        }
    }
}
