//! Spans by the OpenTelemetry SDK, sent by OTLP over HTTP. Their attributes are those of the conventions for HTTP servers, and ours.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::access::Entry;

const TRACE_STATE: &str = "tracestate";

/// For the last spans, when the proxy ends.
const LAST: Duration = Duration::from_secs(2);

/// Sends them; shared by all threads.
#[derive(Debug)]
pub struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The variable that goes before all others.
fn service_name() -> Option<KeyValue> {
    let name = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty())?;
    Some(KeyValue::new("service.name", name))
}

/// Of one request.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Spans {
    /// None: nobody wants them, or they cannot be sent, which is said in the log.
    pub fn from_environment() -> Option<Self> {
        let name = super::wanted_by()?;
        if std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        // Its failures would be said nowhere.
        if std::env::var(name).is_ok_and(|endpoint| endpoint.starts_with("https:")) {
            log_line!(
                "trundle proxy: no spans: {name} is https, and they are sent without TLS; name a collector on this machine"
            );
            return None;
        }
        let exporter = match SpanExporter::builder().with_http().build() {
            Ok(exporter) => exporter,
            Err(error) => {
                log_line!("trundle proxy: no spans, as {name} wants them: {error}");
                return None;
            }
        };
        // What the variables say goes before our own name.
        let ours = Resource::builder_empty().with_service_name("trundle");
        let told = ours.with_detector(Box::new(EnvResourceDetector::new())).with_attributes(service_name());
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(told.build()).build();
        let tracer = provider.tracer("trundle");
        Some(Self { provider, tracer })
    }

    /// As a part of the trace that the client began, or of a new one. None: it is not among those that are kept.
    pub fn begin(&self, entry: &Entry, headers: &HeaderMap) -> Option<Span> {
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let builder = SpanBuilder::from_name(entry.method().to_owned())
            .with_kind(SpanKind::Server)
            .with_start_time(entry.at());
        let span = self.tracer.build_with_context(builder, &parent);
        span.is_recording().then_some(Span(span))
    }

    /// The last ones are sent, if the collector takes them in time.
    pub fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST) {
            log_line!("trundle proxy: the last spans: {error}");
        }
    }
}

impl Span {
    /// What the app does for the request is a part of this span.
    pub fn go_on_in(&self, headers: &mut HeaderMap) {
        let context = Context::new().with_remote_span_context(self.0.span_context().clone());
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(headers));
        // It is written also where the client had none.
        if headers.get(TRACE_STATE).is_some_and(HeaderValue::is_empty) {
            headers.remove(TRACE_STATE);
        }
    }

    pub fn end(mut self, entry: &Entry, outcome: &str) {
        let span = &mut self.0;
        for (key, text) in entry.texts() {
            span.set_attribute(KeyValue::new(key, text.to_owned()));
        }
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new("http.request.body.size", bytes(entry.bytes_up)));
        span.set_attribute(KeyValue::new("http.response.body.size", bytes(entry.bytes_down)));
        span.set_attribute(KeyValue::new("trundle.outcome", outcome.to_owned()));
        if entry.status > 0 {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(entry.status)));
        }
        // What the proxy says by itself ("rejected") is judged by its status: a way to TLS is no error.
        let went_well = matches!(outcome, "answered" | "told" | "gone" | "rejected");
        if entry.status >= 500 || !went_well {
            let error = if went_well { entry.status.to_string() } else { outcome.to_owned() };
            span.set_attribute(KeyValue::new("error.type", error));
            span.set_status(Status::error(outcome.to_owned()));
        }
        span.end();
    }
}
