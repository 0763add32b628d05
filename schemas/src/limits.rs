//! The one place where each limit of the messages, the API and the broker's protocol lives.
//! A service may be configured to a lower value, never to a higher one.

/// Largest signed body, in bytes: half of the broker's 256 KiB payload, so headers always fit.
pub const BODY_BYTES_MAX: usize = 131_072;

/// Deepest nesting of a signed body, in maps, lists and options. The deepest of ours, a delivery's
/// probed stream, has under 12; the codec's own limit of 1024 overflows a thread's stack.
pub const BODY_DEPTH_MAX: usize = 32;

/// Largest payload the broker takes, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 262_144;

/// Largest payload of a worker, in bytes: a report with 64 files and two probes is under 20 KiB.
pub const WORKER_PAYLOAD_BYTES_MAX: usize = 32_768;

/// Largest payload of a tenant's program, in bytes: the HTTP body limit of the same request.
pub const TENANT_PAYLOAD_BYTES_MAX: usize = 65_536;

/// Longest message id, in bytes: job, event and attempt are under 64.
pub const MESSAGE_ID_BYTES_MAX: usize = 128;

/// A signed request is refused when its issue time is further than this from the receiver's clock,
/// in milliseconds. Requests wait nowhere, so a minute is clock error and nothing else.
pub const REQUEST_AGE_MS_MAX: u64 = 60_000;

/// Largest upload, in bytes: 2 GiB.
pub const UPLOAD_BYTES_MAX: u64 = 1 << 31;

/// Longest file name that a client may send, in characters; longer is an error, not cut.
pub const CLIENT_FILENAME_CHARS_MAX: usize = 255;

/// Longest part of a client's file name that the server keeps, in bytes. With its time prefix and
/// a disambiguating number a stored name stays under 128.
pub const KEPT_FILENAME_BYTES_MAX: usize = 96;

/// Longest stored file name, in bytes.
pub const FILENAME_BYTES_MAX: usize = 128;

/// Largest HTTP request body, in bytes. Media never passes the API.
pub const HTTP_BODY_BYTES_MAX: usize = 65_536;

/// Inputs of one job.
pub const INPUTS_MAX: usize = 1;

/// Outputs that one request may ask for.
pub const OUTPUTS_MAX: usize = 1;

/// FFmpeg arguments of one output, when a request gives them itself; a long hand-written command
/// has under 60.
pub const RAW_ARGUMENTS_MAX: usize = 128;

/// Longest of them, in bytes: a chain of sixteen filters, each with all its parameters.
pub const RAW_ARGUMENT_BYTES_MAX: usize = 1024;

/// Filters of one chain.
pub const FILTERS_MAX: usize = 16;

/// Streams that one output takes from its input: one picture and eight sound tracks.
pub const MAPS_MAX: usize = 9;

/// Tags of one output.
pub const TAGS_MAX: usize = 16;

/// Files that a job snapshot lists.
pub const FILES_MAX: usize = 64;

/// Attempts at one job. The third failure is the last.
pub const ATTEMPTS_MAX: u32 = 3;

/// Life of a presigned URL for an upload, an input or an output, in seconds.
pub const URL_TTL_SECS: u32 = 3600;

/// Life of a tenant's download URL, in seconds.
pub const DOWNLOAD_TTL_SECS: u32 = 600;

/// Life of a presigned URL that a service uses at once, in seconds: a 2 GiB read at 4 MiB/s.
pub const SERVICE_URL_TTL_SECS: u32 = 600;

/// An upload that is not confirmed after this long is removed, in seconds.
pub const UNCONFIRMED_TTL_SECS: u64 = 3600;

/// How long outputs live unless the tenant's record says otherwise, in seconds.
pub const RETENTION_SECS: u64 = 86_400;

/// A lease lapses when the worker has not beaten for this long, in seconds.
pub const LEASE_SECS: u32 = 20;

/// Workers beat this often, in milliseconds: four beats may be lost before the lease lapses.
pub const BEAT_MS: u64 = 4000;

/// A worker's request for work is answered within this long, in milliseconds, with work or without.
pub const NEXT_POLL_MS: u64 = 20_000;

/// Deaths of a cell after which its input is given to no worker any more. One may be a worker's
/// bad memory; two are the file.
pub const POISON_STRIKES: usize = 2;

/// Strikes that a poison record keeps, the first and the newest. Jobs of one file that ran at once
/// when it was found out add theirs; under 300 bytes each.
pub const POISON_STRIKES_KEPT: usize = 16;

/// Delay before a failed attempt is offered again, in milliseconds.
pub const ATTEMPT_RETRY_MS: u64 = 1000;

/// Encodes of one tenant that run at once unless its record says otherwise.
pub const TENANT_CONCURRENCY: u32 = 16;

/// Presentation time accepted, in seconds: four hours.
pub const DURATION_SECS_MAX: u32 = 14_400;

/// Pixels of one frame: 8192 x 4320, the largest that our encoders are built for.
pub const PIXELS_MAX: u64 = 35_389_440;

/// Streams of one input. Real recordings have fewer than ten.
pub const STREAMS_MAX: usize = 32;

/// Frames per second of one picture track, on average. Cameras end at 960; recordings of browsers
/// claim 1000 because their clock ticks in milliseconds.
pub const FRAME_RATE_MAX: u64 = 1000;

/// Frames of one picture track: four hours at 300 a second. Beyond it the processor time of a cell
/// would end the encode anyway, hours later.
pub const FRAMES_MAX: u64 = 4_320_000;

/// Audio samples per second; studios end at 384,000.
pub const SAMPLE_RATE_MAX: u64 = 768_000;

/// Channels of one sound track: FFmpeg's own codecs end here.
pub const CHANNELS_MAX: u32 = 64;

/// Largest output of one job, in bytes.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 32;

/// Kept bytes of a cell's stderr before compression: 50 MiB.
pub const STDERR_BYTES_MAX: u64 = 50 << 20;

/// Delivery attempts after the first: 1, 5 and 30 minutes later, in seconds.
pub const WEBHOOK_RETRY_SECS: [u64; 3] = [60, 300, 1800];

/// A webhook's receiver refuses signatures older or newer than this, in seconds.
pub const WEBHOOK_TOLERANCE_SECS: u64 = 300;

/// Consecutive failed attempts at one endpoint, over all events, that disable it.
pub const WEBHOOK_FAILURES_MAX: usize = 10;

/// How long a webhook's replaced secret signs beside the new one at most, and where nothing is said,
/// in seconds: a working day in every time zone.
pub const WEBHOOK_OLD_SECRET_SECS: u32 = 86_400;

/// Attempts of earlier rounds that a replayed delivery keeps: with the four of a round, 16 of some
/// 65 bytes.
pub const DELIVERY_ATTEMPTS_KEPT: usize = 12;

/// Deliveries that one answer lists at most: 50 of under 1.5 KiB are well within a message's body.
pub const DELIVERIES_LIST_MAX: u32 = 50;

/// Deliveries that one answer lists when the request names no number.
pub const DELIVERIES_LIST_DEFAULT: u32 = 20;

/// Ids in one page of an endpoint's list of deliveries: 4.4 KiB, as the list of jobs has.
pub const DELIVERY_PAGE_MAX: usize = 128;

/// Webhook endpoints of one tenant.
pub const ENDPOINTS_MAX: usize = 16;

/// Longest webhook URL, in bytes.
pub const ENDPOINT_URL_BYTES_MAX: usize = 2048;

/// Longest `Idempotency-Key`, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Longest free text that a tenant may attach (workflow id), in bytes.
pub const WORKFLOW_BYTES_MAX: usize = 128;

/// Stored bytes of one tenant unless its record says otherwise: 64 GiB.
pub const TENANT_STORED_BYTES_MAX: u64 = 64 << 30;

/// Approvers that an approval can ask for: more people than any four-eyes rule names.
pub const APPROVERS_MAX: u32 = 8;
