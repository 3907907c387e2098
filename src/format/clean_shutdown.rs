//! `.kafka_cleanshutdown`: the mark of a store that was closed in order.
//!
//! That the file is there is the whole message. Its content is one flat JSON object, `{"version":0,"brokerEpoch":-1}`,
//! and where it can't be read (old brokers wrote nothing) the shutdown was clean all the same, of an unknown broker.

/// The content of the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CleanShutdown {
    /// The epoch of the broker that closed the store; `None` outside a cluster and where it can't be read.
    pub broker_epoch: Option<i64>,
}

impl CleanShutdown {
    /// Reads a whole file; whatever is unreadable is a clean shutdown of an unknown broker.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let epoch = std::str::from_utf8(bytes).ok().and_then(parse_broker_epoch);
        Self { broker_epoch: epoch.filter(|&epoch| epoch >= 0) }
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        format!("{{\"version\":0,\"brokerEpoch\":{}}}", self.broker_epoch.unwrap_or(-1)).into_bytes()
    }
}

/// The `brokerEpoch` of an object whose values are all integers.
fn parse_broker_epoch(text: &str) -> Option<i64> {
    let members = text.trim_ascii().strip_prefix('{')?.strip_suffix('}')?;
    let mut epoch = None;
    for member in members.split(',') {
        let (name, value) = member.split_once(':')?;
        let name = name.trim_ascii().strip_prefix('"')?.strip_suffix('"')?;
        let value: i64 = value.trim_ascii().parse().ok()?;
        if name == "brokerEpoch" {
            epoch = Some(value);
        }
    }
    epoch
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epoch(text: &str) -> Option<i64> {
        CleanShutdown::parse(text.as_bytes()).broker_epoch
    }

    #[test]
    fn the_file_has_kafkas_bytes() {
        let file = br#"{"version":0,"brokerEpoch":164}"#;
        assert_eq!(CleanShutdown::parse(file), CleanShutdown { broker_epoch: Some(164) });
        assert_eq!(CleanShutdown { broker_epoch: Some(164) }.encode(), file);
        assert_eq!(CleanShutdown::default().encode(), br#"{"version":0,"brokerEpoch":-1}"#);
    }

    #[test]
    fn spaces_and_order_do_not_matter() {
        assert_eq!(epoch("\n{ \"brokerEpoch\" : 7 ,\t\"version\": 3, \"more\":1 }\n"), Some(7));
    }

    #[test]
    fn what_cannot_be_read_is_clean_with_an_unknown_epoch() {
        let files = [
            "",
            "{}",
            "true",
            "{\"version\":0}",
            "{\"brokerEpoch\":-1}",
            "{\"brokerEpoch\":x}",
            "{\"brokerEpoch\":1",
            "brokerEpoch:1",
        ];
        for file in files {
            assert_eq!(epoch(file), None, "{file}");
        }
        assert_eq!(CleanShutdown::parse(&[0xff; 40]).broker_epoch, None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_and_epochs_round_trip(bytes: Vec<u8>, epoch in 0..=i64::MAX) {
            let _ = CleanShutdown::parse(&bytes);
            let mark = CleanShutdown { broker_epoch: Some(epoch) };
            prop_assert_eq!(CleanShutdown::parse(&mark.encode()), mark);
        }
    }
}
