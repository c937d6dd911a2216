//! `--set K=V`: values from the command line, put over those of the file.

use toml::de::{DeTable, DeValue};

use super::findings::Findings;
use super::node::{self, Node, Place, Table, Value};
use super::source::shown;

/// The flag, as it is named in messages.
pub const FLAG: &str = "--set";

/// The last one of the same key counts.
pub fn apply(tree: &mut Table, sets: &[(String, String)], findings: &Findings) {
    for (key, value) in sets {
        let Some(path) = segments(key) else {
            let hint = "write it like: --set rollout.max_surge=1";
            findings.refuse(&Place::Flag, &shown(key), "this is not a key".to_owned(), hint);
            continue;
        };
        if let Err(at) = put(tree, &path, node_of(value)) {
            let hint = format!("set {at} itself, or correct the key");
            findings.refuse(&Place::Flag, &shown(key), format!("{at} is not a table"), hint);
        }
    }
}

/// TOML if it is, else the text as it stands.
fn node_of(value: &str) -> Node {
    match DeValue::parse(value) {
        Ok(parsed) => node::of_flag(parsed.get_ref(), value),
        Err(_) => Node { value: Value::Text(value.to_owned()), place: Place::Flag, key_place: Place::Flag },
    }
}

/// The parts of a dotted key, quoted ones too: TOML itself reads it.
fn segments(key: &str) -> Option<Vec<String>> {
    if key.contains(['=', '#', '\n']) {
        return None;
    }
    let text = format!("{key} = 0");
    let parsed = DeTable::parse(&text).ok()?;
    let mut table = parsed.get_ref();
    let mut path = Vec::new();
    loop {
        let mut entries = table.iter();
        let (name, value) = entries.next()?;
        path.push(name.get_ref().to_string());
        match (value.get_ref(), entries.next()) {
            (DeValue::Table(inner), None) => table = inner,
            (DeValue::Integer(zero), None) if zero.as_str() == "0" => return Some(path),
            _ => return None,
        }
    }
}

/// Makes the tables on the way; answers the key that is there already and is not one.
fn put(tree: &mut Table, path: &[String], node: Node) -> Result<(), String> {
    let Some((last, way)) = path.split_last() else { return Ok(()) };
    let mut table = tree;
    for (depth, part) in way.iter().enumerate() {
        let empty = || Node { value: Value::Table(Table::new()), place: Place::Flag, key_place: Place::Flag };
        match &mut table.entry(part.clone()).or_insert_with(empty).value {
            Value::Table(inner) => table = inner,
            _ => return Err(path[..=depth].join(".")),
        }
    }
    table.insert(last.clone(), node);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_toml_reads_them() {
        let read = |key: &str| segments(key).map(|path| path.join("|"));
        assert_eq!(read("run.env.DB_POOL").as_deref(), Some("run|env|DB_POOL"));
        assert_eq!(read("health.ready.headers.\"X.Y\"").as_deref(), Some("health|ready|headers|X.Y"));
        for bad in ["", "a b", "a=1\nb", "a = 0 #", "[a]", "a..b", "a\n"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
