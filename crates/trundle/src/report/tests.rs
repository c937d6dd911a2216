//! The page of a small rollout.
