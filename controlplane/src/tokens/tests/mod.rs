mod claims;
mod forge;
mod keys;
mod properties;
mod refusals;
mod rfc;
mod signatures;
mod wycheproof;
