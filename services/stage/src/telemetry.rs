//! Logs and traces: `tracing` to stderr, OpenTelemetry spans over OTLP when an endpoint is set,
//! and W3C `traceparent` through every message and request, endpoint or not.

use crate::config::{ConfigError, LogFormat, TelemetryConfig};
use async_nats::HeaderMap;
use opentelemetry::{
    Context, KeyValue, global,
    propagation::{Extractor, Injector},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Flushes what is buffered when the process ends.
#[derive(Debug)]
pub struct Guard(SdkTracerProvider);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::debug!(%error, "traces not flushed");
        }
    }
}

/// Installs logs and traces for the process. Must run outside the async runtime.
///
/// # Errors
/// [`ConfigError::Value`] for a filter or an endpoint that does not parse.
pub fn init(service: &'static str, config: &TelemetryConfig) -> Result<Guard, ConfigError> {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| ConfigError::Value {
        key: "telemetry.log",
        rule: format!("must be a filter such as `info` or `hotcell=debug`: {error}"),
    })?;
    let provider = provider(service, config)?;
    global::set_text_map_propagator(TraceContextPropagator::new());
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("hotcell"));
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter).with(spans);
    let installed = match config.format {
        LogFormat::Json => registry.with(text.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(text.with_ansi(false)).try_init(),
    };
    if let Err(error) = installed {
        tracing::debug!(%error, "another subscriber is installed already");
    }
    Ok(Guard(provider))
}

/// With an endpoint every span is exported; without one spans exist only to carry the context.
fn provider(
    service: &'static str,
    config: &TelemetryConfig,
) -> Result<SdkTracerProvider, ConfigError> {
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.namespace", "hotcell"))
        .build();
    let builder = SdkTracerProvider::builder().with_resource(resource);
    if config.otlp.is_empty() {
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        return Ok(builder.with_sampler(sampler).build());
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&config.otlp)
        .build()
        .map_err(|error| ConfigError::Value {
            key: "telemetry.otlp",
            rule: format!("must be an OTLP/HTTP endpoint: {error}"),
        })?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
    Ok(builder.with_sampler(sampler).with_batch_exporter(exporter).build())
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(async_nats::HeaderValue::as_str)
    }
    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key, value.as_str());
    }
}

/// Writes the current span's context into the headers of a message.
pub fn inject(headers: &mut HeaderMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut HeadersMut(headers));
    });
}

/// Makes `span` a child of the context in the headers of a message.
pub fn follow(span: &Span, headers: Option<&HeaderMap>) {
    let Some(headers) = headers else { return };
    let context = global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &Headers(headers))
    });
    set_parent(span, context);
}

/// The trace that a message belongs to, kept for a span that is made later.
#[derive(Debug, Clone, Default)]
pub struct TraceParent(Option<HeaderMap>);

impl TraceParent {
    /// The trace in the headers of a message.
    #[must_use]
    pub fn of(headers: Option<&HeaderMap>) -> Self {
        Self(headers.cloned())
    }

    /// Makes `span` a child of it.
    pub fn adopt(&self, span: &Span) {
        follow(span, self.0.as_ref());
    }
}

/// Makes `span` a child of a W3C `traceparent` that an HTTP client sent, when it is well formed.
pub fn follow_traceparent(span: &Span, traceparent: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", traceparent);
    follow(span, Some(&headers));
}

fn set_parent(span: &Span, context: Context) {
    if let Err(error) = span.set_parent(context) {
        tracing::trace!(?error, "span has no parent");
    }
}
