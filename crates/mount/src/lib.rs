//! The FUSE adapter: decode a request, call the engine, reply.
