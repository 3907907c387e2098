//! A table of keys, and the overrides that were set from it.
//!
//! [`config_keys!`] declares each key once (documentation, name, type, default, range) and makes of it the settings
//! struct's field, the builder's method and the table's row. [`Overrides`] is the map from key to text behind every
//! builder; it knows no key by name.
//!
//! Texts that come through [`Overrides::set`] are checked at once and kept in their plain form (` 007 ` as `7`). Values
//! that come through a builder's method are checked by [`Overrides::resolve`], so that building never fails half-way.

use std::collections::BTreeMap;

use super::error::ConfigError;
use super::values::Value;
use crate::name::shortened;

/// One row of a table of keys, over the settings `S` that it is a field of.
pub(super) struct Key<S> {
    /// Kafka's name.
    pub(super) name: &'static str,
    /// The legal values in words.
    pub(super) expected: &'static str,
    /// Puts a text into its field; `false` when the text is illegal.
    pub(super) apply: fn(&mut S, &str) -> bool,
    /// The field as text.
    pub(super) show: fn(&S) -> String,
}

/// Settings that have a table of keys; the defaults are their `Default`.
pub(super) trait Settings: Default + 'static {
    /// The table, in the order in which keys are listed.
    const KEYS: &'static [Key<Self>];

    /// The error for a name that the table doesn't have.
    fn refusal(name: &str) -> ConfigError {
        ConfigError::UnknownKey { key: shortened(name) }
    }

    /// Rules between two fields, each of which is legal alone.
    fn check_together(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

fn find<S: Settings>(name: &str) -> Result<&'static Key<S>, ConfigError> {
    S::KEYS.iter().find(|key| key.name == name).ok_or_else(|| S::refusal(name))
}

fn apply<S: Settings>(key: &Key<S>, settings: &mut S, text: &str) -> Result<(), ConfigError> {
    if (key.apply)(settings, text) {
        return Ok(());
    }
    Err(ConfigError::Invalid { key: key.name, value: shortened(text), expected: key.expected })
}

/// The values that were set, by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Overrides(BTreeMap<&'static str, String>);

impl Overrides {
    /// Sets a value that is checked later.
    pub(super) fn put(&mut self, key: &'static str, value: &impl Value) {
        self.0.insert(key, value.to_text());
    }

    /// Sets a value given as text; on an error nothing has changed.
    pub(super) fn set<S: Settings>(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let key = find::<S>(name)?;
        let mut settings = S::default();
        apply(key, &mut settings, text.trim())?;
        self.0.insert(key.name, (key.show)(&settings));
        Ok(())
    }

    /// Forgets a value; whether there was one.
    pub(super) fn unset<S: Settings>(&mut self, name: &str) -> Result<bool, ConfigError> {
        Ok(self.0.remove(find::<S>(name)?.name).is_some())
    }

    /// The value of a key, set or default.
    pub(super) fn get<S: Settings>(&self, name: &str) -> Result<String, ConfigError> {
        find::<S>(name).map(|key| self.value(key, &S::default()))
    }

    /// The value of a key that was set.
    pub(super) fn explicit(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Every key with its value, set or default, in the table's order.
    pub(super) fn entries<S: Settings>(&self) -> impl Iterator<Item = (&'static str, String)> {
        let defaults = S::default();
        S::KEYS.iter().map(move |key| (key.name, self.value(key, &defaults)))
    }

    /// The keys that were set, in the table's order.
    pub(super) fn explicit_entries<S: Settings>(&self) -> impl Iterator<Item = (&'static str, &str)> {
        S::KEYS.iter().filter_map(|key| Some((key.name, self.explicit(key.name)?)))
    }

    /// These values, and for the keys not set here those of `defaults`.
    pub(super) fn over(&self, defaults: &Self) -> Self {
        let mut merged = defaults.clone();
        merged.0.extend(self.0.iter().map(|(key, value)| (*key, value.clone())));
        merged
    }

    /// The typed settings, every value checked.
    pub(super) fn resolve<S: Settings>(&self) -> Result<S, ConfigError> {
        let mut settings = S::default();
        for key in S::KEYS {
            if let Some(text) = self.explicit(key.name) {
                apply(key, &mut settings, text)?;
            }
        }
        settings.check_together()?;
        Ok(settings)
    }

    fn value<S: Settings>(&self, key: &Key<S>, defaults: &S) -> String {
        self.explicit(key.name).map_or_else(|| (key.show)(defaults), str::to_owned)
    }
}

/// Declares keys: for each its builder's documentation, name, field, type, default, legal values in words, and parser.
macro_rules! config_keys {
    (
        $(#[$settings_doc:meta])*
        settings $Settings:ident of $Config:ident, keys $KEYS:ident;
        $(
            $(#[$doc:meta])*
            $name:literal => $field:ident: $type:ty = $default:expr, $expected:literal, $parse:expr;
        )+
    ) => {
        $(#[$settings_doc])*
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub struct $Settings {
            $(
                #[doc = concat!("`", $name, "`: see [`", stringify!($Config), "::", stringify!($field), "`].")]
                pub $field: $type,
            )+
        }

        impl Default for $Settings {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        const $KEYS: &[$crate::config::keys::Key<$Settings>] = &[$(
            $crate::config::keys::Key {
                name: $name,
                expected: $expected,
                apply: |settings, text| {
                    let parse: fn(&str) -> Option<$type> = $parse;
                    parse(text).is_some_and(|value| {
                        settings.$field = value;
                        true
                    })
                },
                show: |settings| $crate::config::values::Value::to_text(&settings.$field),
            },
        )+];

        impl $Config {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $field(mut self, value: $type) -> Self {
                    self.overrides.put($name, &value);
                    self
                }
            )+
        }
    };
}

pub(super) use config_keys;
