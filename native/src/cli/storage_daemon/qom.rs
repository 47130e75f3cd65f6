//! Objects by QMP: `object-add`, `object-del`, and the tree they stand in.

use super::chardev::CharDevices;
use super::types::{self, Type};
use crate::cli::objects::Objects;
use sectora_core::io::BoxFuture;
use sectora_core::monitor::{
    Arguments, Call, Commands, QapiErrorClass, QmpError, QmpResult, begin, wrong_type,
};
use sectora_core::qapi::{self, ThrottleGroupProperties};
use serde_json::{Value, json};
use std::sync::Arc;

const NAMES: [&str; 7] = [
    "object-del",
    "object-add",
    "qom-list-properties",
    "qom-list-types",
    "qom-set",
    "qom-get",
    "qom-list",
];

/// The commands.
#[derive(Debug)]
pub(super) struct ObjectCommands {
    pub(super) objects: Objects,
    pub(super) chardevs: Arc<CharDevices>,
}

/// A place in the tree.
enum Place {
    Root,
    /// `/objects`, `/chardevs`, `/backend`.
    Folder(&'static str),
    Object {
        id: String,
        kind: String,
    },
}

const FOLDERS: [&str; 3] = ["backend", "objects", "chardevs"];

impl Place {
    fn kind(&self) -> &str {
        match self {
            Self::Root | Self::Folder(_) => "container",
            Self::Object { kind, .. } => kind,
        }
    }
}

impl ObjectCommands {
    /// What stands in a folder: names and types.
    fn inside(&self, folder: &str) -> Vec<(String, String)> {
        match folder {
            "objects" => {
                let objects = self.objects.list();
                objects.into_iter().map(|(id, kind)| (id, kind.to_owned())).collect()
            }
            "chardevs" => self.chardevs.list(),
            _ => Vec::new(),
        }
    }

    /// What a path names: from the root, or by its end where that is unambiguous.
    fn find(&self, path: &str) -> QmpResult<Place> {
        let missing = || QmpError::device_not_found(path);
        let object = |(id, kind): (String, String)| Place::Object { id, kind };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let folder = |name: &str| FOLDERS.into_iter().find(|folder| *folder == name);
        let inside = |folder: &str, id: &str| {
            self.inside(folder).into_iter().find(|(known, _)| known == id).map(object)
        };
        if path.starts_with('/') {
            return match &*parts {
                [] => Ok(Place::Root),
                [name] => folder(name).map(Place::Folder).ok_or_else(missing),
                [name, id] => folder(name).and_then(|name| inside(name, id)).ok_or_else(missing),
                _ => Err(missing()),
            };
        }
        let ambiguous = || QmpError::generic(format!("Path '{path}' is ambiguous"));
        let mut found = match &*parts {
            [] => return Err(ambiguous()),
            [name] => {
                let folders = folder(name).map(Place::Folder).into_iter();
                let objects = FOLDERS.iter().filter_map(|folder| inside(folder, name));
                folders.chain(objects).collect::<Vec<_>>()
            }
            [name, id] => folder(name).and_then(|name| inside(name, id)).into_iter().collect(),
            _ => Vec::new(),
        };
        match (found.pop(), found.is_empty()) {
            (Some(place), true) => Ok(place),
            (Some(_), false) => Err(ambiguous()),
            (None, _) => Err(missing()),
        }
    }

    fn list(&self, path: &str) -> QmpResult<Value> {
        let mut out = vec![json!({ "name": "type", "type": "string" })];
        let child = |(name, kind): (String, String)| json!({ "name": name, "type": format!("child<{kind}>") });
        match self.find(path)? {
            Place::Root => {
                out.extend(FOLDERS.map(|name| child((name.into(), "container".into()))));
            }
            Place::Folder(name) => out.extend(self.inside(name).into_iter().map(child)),
            Place::Object { kind, .. } => out.extend(types::properties(&kind)),
        }
        Ok(out.into())
    }

    fn get(&self, path: &str, property: &str) -> QmpResult<Value> {
        let place = self.find(path)?;
        if property == "type" {
            return Ok(place.kind().into());
        }
        let children = match &place {
            Place::Root => FOLDERS.iter().map(|name| (*name).to_owned()).collect(),
            Place::Folder(name) => self.inside(name).into_iter().map(|(id, _)| id).collect(),
            Place::Object { id, kind } => {
                if let Some(value) = self.objects.numbers(id).and_then(|n| n.get(property)) {
                    return Ok(value.into());
                }
                if let Some(group) = self.objects.throttle_group(id) {
                    let limits = serde_json::to_value(group.limits()).unwrap_or_default();
                    let old = property.strip_prefix("x-").and_then(|name| limits.get(name));
                    match old {
                        Some(value) => return Ok(value.clone()),
                        None if property == "limits" => return Ok(limits),
                        None => {}
                    }
                }
                if types::has_property(kind, property) {
                    let text = format!("Property '{kind}.{property}' is not readable");
                    return Err(QmpError::generic(text));
                }
                Vec::<String>::new()
            }
        };
        match (children.iter().any(|name| name == property), &place) {
            (true, Place::Folder(folder)) => Ok(format!("/{folder}/{property}").into()),
            (true, _) => Ok(format!("/{property}").into()),
            _ => Err(not_found(place.kind(), property)),
        }
    }

    fn set(&self, path: &str, property: &str, value: &Value) -> QmpResult<Value> {
        let place = self.find(path)?;
        let kind = place.kind();
        let fixed = || QmpError::generic(format!("Property '{kind}.{property}' is not writable"));
        let Place::Object { id, .. } = &place else {
            let known = property == "type" || self.get(path, property).is_ok();
            return Err(if known { fixed() } else { not_found(kind, property) });
        };
        if property != "type" && !types::has_property(kind, property) {
            return Err(not_found(kind, property));
        }
        if let Some(group) = self.objects.throttle_group(id).filter(|_| property == "limits") {
            let mut members = serde_json::Map::new();
            members.insert(property.into(), value.clone());
            let given: ThrottleGroupProperties = qapi::parse(members)?;
            group.set_limits(&given.limits.unwrap_or_default())?;
            return Ok(json!({}));
        }
        if self.objects.numbers(id).and_then(|numbers| numbers.get(property)).is_none() {
            return Err(fixed());
        }
        let value = value.as_i64().ok_or_else(|| wrong_type(property, "integer"))?;
        let set = self.objects.set_number(id, property, value);
        set.map_err(|failure| QmpError::generic(failure.to_text()))?;
        Ok(json!({}))
    }

    fn answer(&self, name: &str, call: Call) -> QmpResult<Value> {
        if name == "object-add" {
            let mut known = Arguments::new(call.arguments.clone());
            known.need_text("qom-type")?;
            known.need_text("id")?;
            let added = self.objects.add_described(&call.arguments.into());
            added.map_err(|failure| QmpError::generic(failure.to_text()))?;
            return Ok(json!({}));
        }
        let mut arguments = Arguments::new(call.arguments);
        match name {
            "object-del" => {
                let id = arguments.need_text("id")?;
                arguments.end()?;
                let removed = self.objects.remove(&id);
                removed.map_err(|failure| QmpError::generic(failure.to_text()))?;
                Ok(json!({}))
            }
            "qom-list" => {
                let path = arguments.need_text("path")?;
                arguments.end()?;
                self.list(&path)
            }
            "qom-get" | "qom-set" => {
                let path = arguments.need_text("path")?;
                let property = arguments.need_text("property")?;
                let value = match name {
                    "qom-set" => Some(arguments.need("value")?),
                    _ => None,
                };
                arguments.end()?;
                match value {
                    Some(value) => self.set(&path, &property, &value),
                    None => self.get(&path, &property),
                }
            }
            "qom-list-types" => {
                let implements = arguments.text("implements")?;
                let with_abstract = arguments.flag("abstract")?.unwrap_or(false);
                arguments.end()?;
                let all = types::TYPES.iter().filter(|t| with_abstract || !t.is_abstract);
                let of = |t: &&Type| implements.as_deref().is_none_or(|name| t.is_a(name));
                Ok(all.filter(of).map(Type::to_json).collect())
            }
            _ => {
                let typename = arguments.need_text("typename")?;
                arguments.end()?;
                if !types::TYPES.iter().any(|known| known.name == typename) {
                    let desc = format!("Class '{typename}' not found");
                    return Err(QmpError { class: QapiErrorClass::DeviceNotFound, desc });
                }
                let mut out = vec![json!({ "name": "type", "type": "string" })];
                out.extend(types::properties(&typename));
                Ok(out.into())
            }
        }
    }
}

fn not_found(kind: &str, property: &str) -> QmpError {
    QmpError::generic(format!("Property '{kind}.{property}' not found"))
}

impl Commands for ObjectCommands {
    fn names(&self) -> Vec<&'static str> {
        NAMES.into()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        begin(&NAMES, name, || async move { self.answer(name, call) })
    }
}
