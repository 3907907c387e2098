//! Numbers that no other topic or folder has, from the keys that the standard library draws for its hash maps out of the
//! operating system, and the clock. They are unique, not secret.

use std::hash::{BuildHasher, RandomState};

use crate::format::TopicId;
use crate::types::Timestamp;

/// Names one deletion of a partition's folder.
pub(super) fn random_id(now: Timestamp) -> u128 {
    u128::from_be_bytes(random_topic_id(now).to_bytes())
}

/// A new topic's id.
pub(super) fn random_topic_id(now: Timestamp) -> TopicId {
    let half = || RandomState::new().hash_one((now, std::process::id()));
    TopicId::from_random(half(), half())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_thousand_ids_are_all_different() {
        let ids: BTreeSet<TopicId> = (0..1000).map(|_| random_topic_id(Timestamp::ZERO)).collect();
        assert_eq!(ids.len(), 1000);
    }
}
