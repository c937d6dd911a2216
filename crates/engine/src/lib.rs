//! trundle-engine
