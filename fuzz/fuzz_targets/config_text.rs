//! Any texts as keys and values of configs: no panic, and what is taken reads back and is taken again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stratalog::{StoreConfig, TopicConfig};

fuzz_target!(|lines: Vec<(Key<'_>, &str)>| {
    let (mut topic, mut store) = (TopicConfig::new(), StoreConfig::new());
    for (key, value) in lines {
        let key = key.name(&topic, &store);
        if topic.set(&key, value).is_ok() {
            let plain = topic.get(&key).expect("a key that was set");
            assert_eq!(topic.explicit(&key), Some(plain.as_str()));
            topic.set(&key, &plain).expect("the plain form is legal");
            assert_eq!(topic.get(&key), Ok(plain));
        }
        if store.set(&key, value).is_ok() {
            let plain = store.get(&key).expect("a key that was set");
            store.set(&key, &plain).expect("the plain form is legal");
            assert_eq!(store.get(&key), Ok(plain));
        }
    }
    // Keys that are legal one by one may contradict each other.
    let is_legal = topic.validate().is_ok();
    assert_eq!(TopicConfig::from_map(topic.explicit_entries()).ok().as_ref(), is_legal.then_some(&topic));
    let _ = topic.resolve(store.default_topic_config());
    assert_eq!(store.topic_defaults(topic).resolve().is_ok_and(|_| true), is_legal);
});

/// A key that there is, or any text.
#[derive(Debug, arbitrary::Arbitrary)]
enum Key<'a> {
    Known(u8),
    Any(&'a str),
}

impl Key<'_> {
    fn name(&self, topic: &TopicConfig, store: &StoreConfig) -> String {
        let keys: Vec<_> = topic.entries().chain(store.entries()).map(|(key, _)| key).collect();
        match self {
            Self::Known(number) => keys[usize::from(*number) % keys.len()].to_owned(),
            Self::Any(text) => (*text).to_owned(),
        }
    }
}
