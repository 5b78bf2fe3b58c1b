//! The JSON Schema of a configuration file, for editors.

use serde_json::{Map, Value, json};

use super::fields;
use super::shape::{ALWAYS_ALLOWED, Field, Shape, Table, Unknown};

/// Returns the JSON Schema (draft 2020-12) of a configuration file.
///
/// It describes single values; what concerns several at once is for `pctd check`.
pub fn schema() -> Value {
    let mut definitions = Map::new();
    let mut schema = object(&fields::FILE, &mut definitions);
    if let Value::Object(schema) = &mut schema {
        schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".to_owned(), json!("pctd configuration"));
        schema.insert("$defs".to_owned(), Value::Object(definitions));
    }
    schema
}

fn shape(shape: &Shape, definitions: &mut Map<String, Value>) -> Value {
    match shape {
        Shape::Boolean => json!({"type": "boolean"}),
        // Editors that read numbers as floating point cannot compare with the greatest.
        Shape::Whole(least, u64::MAX) => json!({"type": "integer", "minimum": least}),
        Shape::Whole(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Shape::Choice(words) => json!({"enum": words}),
        Shape::Text(syntax) if syntax.pattern.is_empty() => json!({"type": "string"}),
        Shape::Text(syntax) => json!({"type": "string", "pattern": syntax.pattern}),
        Shape::Duration(_) => json!({
            "type": "string",
            "pattern": "^(0|([0-9]+([.][0-9]+)? ?[a-zA-Zµ]+ ?)+)$",
            "examples": ["500ms", "10m"],
        }),
        Shape::List(item) => json!({"type": "array", "items": self::shape(item, definitions)}),
        Shape::Map(keys, value) => map(keys.pattern, value, definitions),
        Shape::Object(table) => reference(table, definitions),
        Shape::Either(shapes) => {
            let shapes: Vec<Value> =
                shapes.iter().map(|one| self::shape(one, definitions)).collect();
            json!({"anyOf": shapes})
        }
    }
}

fn map(key_pattern: &str, value: &Shape, definitions: &mut Map<String, Value>) -> Value {
    let strays_allowed = matches!(value, Shape::Object(table) if !table.known_by.is_empty());
    let value = shape(value, definitions);
    // The keys that are allowed everywhere would match some patterns too.
    let pattern = format!("^(?!(?:comment|[$]schema)$){}", key_pattern.trim_start_matches('^'));
    let mut map = json!({
        "type": "object",
        "properties": always_allowed(),
        "patternProperties": {pattern: value},
    });
    if let (Value::Object(map), false) = (&mut map, strays_allowed) {
        map.insert("additionalProperties".to_owned(), json!(false));
    }
    map
}

/// Returns a reference to the table's definition, and makes that when it is the first.
fn reference(table: &'static Table, definitions: &mut Map<String, Value>) -> Value {
    let name = table.name.replace(' ', "_");
    if !definitions.contains_key(&name) {
        // No table contains itself, so that this comes to an end.
        let definition = object(table, definitions);
        definitions.insert(name.clone(), definition);
    }
    json!({"$ref": format!("#/$defs/{name}")})
}

fn object(table: &Table, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = always_allowed();
    for field in table.fields {
        properties.insert(field.name.to_owned(), property(field, definitions));
    }
    let required: Vec<&str> =
        table.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut rules = Map::new();
    rules.insert("properties".to_owned(), Value::Object(properties));
    if table.unknown == Unknown::Refuse {
        rules.insert("additionalProperties".to_owned(), json!(false));
    }
    if !required.is_empty() {
        rules.insert("required".to_owned(), json!(required));
    }
    let mut object = Map::new();
    object.insert("description".to_owned(), json!(table.doc));
    object.insert("type".to_owned(), json!("object"));
    if table.known_by.is_empty() {
        object.extend(rules);
    } else {
        let known: Vec<Value> =
            table.known_by.iter().map(|key| json!({"required": [key]})).collect();
        object.insert("if".to_owned(), json!({"anyOf": known}));
        object.insert("then".to_owned(), Value::Object(rules));
    }
    Value::Object(object)
}

fn property(field: &Field, definitions: &mut Map<String, Value>) -> Value {
    let mut property = shape(&field.shape, definitions);
    if let Value::Object(property) = &mut property {
        property.insert("description".to_owned(), json!(field.doc));
        if let Some(default) =
            field.default.and_then(|json| serde_json::from_str::<Value>(json).ok())
        {
            property.insert("default".to_owned(), default);
        }
    }
    property
}

fn always_allowed() -> Map<String, Value> {
    ALWAYS_ALLOWED.iter().map(|key| ((*key).to_owned(), json!(true))).collect()
}
