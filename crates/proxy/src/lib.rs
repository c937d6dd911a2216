//! trundle-proxy
