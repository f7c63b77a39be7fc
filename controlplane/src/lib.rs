//! The control plane: configuration, model, control socket, laboratory and command line.
#![forbid(unsafe_code)]
