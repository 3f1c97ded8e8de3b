//! The JSON Schema (2020-12) of a whole file, from the types of its parts.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json, json};

use super::components::{CONNECTORS, EXPORTERS, EXTENSIONS, PROCESSORS, RECEIVERS, Section};
use super::pipelines::Written;

/// The schema of `collector.yaml`.
pub fn schema() -> Json {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let sections = [
        section(&RECEIVERS, "What takes data in, by `type` or `type/name`.", &mut generator),
        section(&PROCESSORS, "What looks at data and edits it.", &mut generator),
        section(&EXPORTERS, "What sends data on.", &mut generator),
        section(&CONNECTORS, "What leads from pipelines to pipelines.", &mut generator),
        section(&EXTENSIONS, "What runs beside the pipelines.", &mut generator),
        ("service", generator.subschema_for::<Written>().to_value()),
    ];
    let properties: Map<String, Json> =
        sections.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let definitions = generator.take_definitions(true);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tollgate configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "required": ["service"],
        "$defs": definitions,
    })
}

fn section<T>(
    section: &Section<T>,
    description: &str,
    generator: &mut SchemaGenerator,
) -> (&'static str, Json) {
    let mut patterns = Map::new();
    for kind in section.kinds {
        let schema = (kind.schema)(generator).to_value();
        for name in kind.names {
            let or_null = json!({ "anyOf": [schema, { "type": "null" }] });
            patterns.insert(format!("^{name}(/.+)?$"), or_null);
        }
    }
    let schema = json!({
        "description": description,
        "type": ["object", "null"],
        "patternProperties": patterns,
        "additionalProperties": false,
    });
    (section.name, schema)
}
