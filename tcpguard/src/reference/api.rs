//! Describes every path and structure, from the OpenAPI description.

use std::fmt::Write;

use serde_json::Value;

use super::cell;

pub(super) fn describe() -> String {
    let description: Value = serde_json::from_str(crate::api::description()).expect("JSON");
    let mut text = format!("{}\n", description["info"]["description"].as_str().expect("a description"));
    text.push_str("\nThe machine-readable form is at `/openapi.json`. [api.md](../api.md) describes how current each value is.\n\n## Paths\n");
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            describe_operation(&mut text, path, method, operation);
        }
    }
    text.push_str("\n## Structures\n");
    for (name, schema) in description["components"]["schemas"].as_object().expect("schemas") {
        describe_schema(&mut text, name, schema);
    }
    text
}

fn describe_operation(text: &mut String, path: &str, method: &str, operation: &Value) {
    writeln!(text, "\n### `{} {path}`\n", method.to_uppercase()).expect("written");
    for key in ["summary", "description"] {
        if let Some(sentence) = operation[key].as_str() {
            writeln!(text, "{}{}\n", cell(sentence), if sentence.ends_with('.') { "" } else { "." }).expect("written");
        }
    }
    let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
    for parameter in parameters {
        let (name, place) =
            (parameter["name"].as_str().unwrap_or_default(), parameter["in"].as_str().unwrap_or_default());
        let doc = parameter["description"].as_str().unwrap_or_default();
        writeln!(text, "- `{name}` ({place}): {}", cell(doc)).expect("written");
    }
    let body = type_of(&operation["requestBody"]["content"]["application/json"]["schema"]);
    if body != "anything" {
        writeln!(text, "- body: {body}").expect("written");
    }
    for (status, response) in operation["responses"].as_object().expect("responses") {
        let kind = response["content"]
            .as_object()
            .and_then(|content| content.values().next())
            .map(|media| type_of(&media["schema"]));
        let doc = response["description"].as_str().unwrap_or_default();
        let what = [cell(doc), kind.unwrap_or_default()];
        let what: Vec<&str> = what.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        writeln!(text, "- {status}: {}", what.join(": ")).expect("written");
    }
}

fn describe_schema(text: &mut String, name: &str, schema: &Value) {
    writeln!(text, "\n### {name}\n").expect("written");
    if let Some(doc) = schema["description"].as_str() {
        writeln!(text, "{}\n", cell(doc)).expect("written");
    }
    match schema["properties"].as_object() {
        Some(properties) => {
            text.push_str("| key | type | meaning |\n| --- | --- | --- |\n");
            for (key, property) in properties {
                let doc = property["description"].as_str().unwrap_or_default();
                writeln!(text, "| `{key}` | {} | {} |", type_of(property), cell(doc)).expect("written");
            }
        }
        None => writeln!(text, "{}", type_of(schema)).expect("written"),
    }
}

/// Returns a type in words.
fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(parts) = schema[key].as_array() {
            let mut kinds: Vec<String> = parts.iter().map(type_of).collect();
            kinds.dedup();
            return kinds.join(" or ");
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let of_one = |kind: &str| match kind {
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("{} by name", type_of(&schema["additionalProperties"]))
        }
        "null" => "null".to_owned(),
        kind => schema["format"].as_str().filter(|format| !format.starts_with("int")).unwrap_or(kind).to_owned(),
    };
    match &schema["type"] {
        Value::String(kind) => of_one(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).map(of_one).collect::<Vec<_>>().join(" or "),
        _ => "anything".to_owned(),
    }
}
