//! What Iceberg's specification (format version 2) says of metadata, manifests and types, as far as appending needs it.
//! <https://iceberg.apache.org/spec/>

pub(crate) mod avro;
pub(crate) mod data_file;
pub(crate) mod manifest;
pub(crate) mod metadata;
pub(crate) mod metadata_file;
pub(crate) mod partition;
pub(crate) mod schema;
