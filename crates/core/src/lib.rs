//! trundle-core
