//! Stores as a whole, on memory and on disk.
