//! The client side of the log, in-process: no network, no thread of its own.
//!
//! - `partitioner.rs`: which partition a key goes to, the one rule that producers of different programs must share.
//! - `transaction.rs`: [`TransactionalProducer`] and its transactions.
//! - `transaction_log.rs`: [`TransactionCoordinator`], which knows what became of them, over `state_log.rs`, its topic, and
//!   `transitions.rs`, its rules.

mod error;
pub mod partitioner;
mod state_log;
mod transaction;
mod transaction_log;
mod transitions;

pub use error::TransactionError;
pub use transaction::{Transaction, TransactionalProducer};
pub use transaction_log::{CoordinatorReport, TransactionCoordinator, TransactionDescription};
