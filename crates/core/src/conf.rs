//! Container confs (skeleton; replaced by the reader).

/// A conf.
#[derive(Debug, Clone)]
pub struct Conf {}
