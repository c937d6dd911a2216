//! trundle-drivers
