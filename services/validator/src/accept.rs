//! The MIME types that an upload may declare, and the container that each one means.
//!
//! Promises: one exact list, in lower case, without parameters; video, audio and images only.
//! Refuses every other text, however alike it looks.

use hotcell_schemas::plan::Container;

/// Types that may be declared. Aliases that browsers and operating systems really send are here.
const DECLARED: [(&str, Container); 32] = [
    ("video/mp4", Container::Mp4),
    ("video/quicktime", Container::Mp4),
    ("video/x-m4v", Container::Mp4),
    ("video/3gpp", Container::Mp4),
    ("video/3gpp2", Container::Mp4),
    ("audio/mp4", Container::Mp4),
    ("audio/m4a", Container::Mp4),
    ("audio/x-m4a", Container::Mp4),
    ("video/webm", Container::Matroska),
    ("video/matroska", Container::Matroska),
    ("video/x-matroska", Container::Matroska),
    ("audio/webm", Container::Matroska),
    ("audio/x-matroska", Container::Matroska),
    ("video/mp2t", Container::MpegTs),
    ("video/x-msvideo", Container::Avi),
    ("video/vnd.avi", Container::Avi),
    ("video/avi", Container::Avi),
    ("video/x-flv", Container::Flv),
    ("video/ogg", Container::Ogg),
    ("audio/ogg", Container::Ogg),
    ("audio/opus", Container::Ogg),
    ("audio/wav", Container::Wav),
    ("audio/x-wav", Container::Wav),
    ("audio/wave", Container::Wav),
    ("audio/vnd.wave", Container::Wav),
    ("audio/mpeg", Container::Mp3),
    ("audio/mp3", Container::Mp3),
    ("audio/aac", Container::Aac),
    ("audio/flac", Container::Flac),
    ("image/png", Container::Png),
    ("image/jpeg", Container::Jpeg),
    ("image/gif", Container::Gif),
];

/// Further names that the sniffer has for containers that are accepted; nobody may declare them.
const SNIFFED: [(&str, Container); 6] = [
    ("application/mp4", Container::Mp4),
    ("audio/matroska", Container::Matroska),
    ("application/x-matroska", Container::Matroska),
    ("application/ogg", Container::Ogg),
    ("audio/x-flac", Container::Flac),
    ("image/apng", Container::Png),
];

/// Whether an upload may declare this MIME type.
#[must_use]
pub fn accepted_content_type(text: &str) -> bool {
    declared(text).is_some()
}

/// The container that a declared type means.
pub(crate) fn declared(text: &str) -> Option<Container> {
    DECLARED.iter().find(|(name, _)| *name == text).map(|(_, container)| *container)
}

/// The container of a type that the sniffer named.
pub(crate) fn sniffed(text: &str) -> Option<Container> {
    let further = || SNIFFED.iter().find(|(name, _)| *name == text).map(|(_, found)| *found);
    declared(text).or_else(further)
}

/// The one MIME type that records give to a container.
pub(crate) const fn media_type(container: Container, has_video: Option<bool>) -> &'static str {
    let sound_only = matches!(has_video, Some(false));
    match container {
        Container::Mp4 if sound_only => "audio/mp4",
        Container::Mp4 => "video/mp4",
        Container::Matroska if sound_only => "audio/x-matroska",
        Container::Matroska => "video/x-matroska",
        Container::MpegTs => "video/mp2t",
        Container::Avi => "video/x-msvideo",
        Container::Flv => "video/x-flv",
        Container::Wav => "audio/wav",
        Container::Mp3 => "audio/mpeg",
        Container::Aac => "audio/aac",
        Container::Flac => "audio/flac",
        Container::Ogg if sound_only => "audio/ogg",
        Container::Ogg => "video/ogg",
        Container::Png => "image/png",
        Container::Jpeg => "image/jpeg",
        Container::Gif => "image/gif",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_17_only_listed_media_types_are_accepted() {
        for good in ["video/mp4", "audio/aac", "image/png", "video/quicktime", "audio/mp4"] {
            assert!(accepted_content_type(good), "{good}");
        }
        for bad in [
            "text/html",
            "application/x-mpegURL",
            "application/vnd.apple.mpegurl",
            "application/dash+xml",
            "audio/x-mpegurl",
            "application/octet-stream",
            "application/mp4",
            "image/svg+xml",
            "video/../x",
            "video/*",
            "video/",
            "VIDEO/MP4",
            "video/mp4; codecs=avc1",
            " video/mp4",
            "video/mp4\n",
            "",
        ] {
            assert!(!accepted_content_type(bad), "{bad:?}");
        }
    }

    #[test]
    fn every_container_can_be_declared_by_the_type_that_records_give_it() {
        for container in Container::ALL {
            for has_video in [None, Some(false), Some(true)] {
                assert_eq!(declared(media_type(container, has_video)), Some(container));
            }
        }
        for (text, _) in DECLARED {
            assert!(["video/", "audio/", "image/"].iter().any(|kind| text.starts_with(kind)));
        }
    }
}
