//! What holds for every input of every parser. The fuzz targets (`fuzz/`) and the short form in the normal tests
//! (`tests/it/edge/parsers.rs`) check the same with these.

pub mod config;
pub mod journal_segment;
pub mod otlp_json;
pub mod otlp_protobuf;
pub mod policies;
