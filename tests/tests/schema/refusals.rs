//! Wrong arguments, made of the tables, to the reference daemon and to `qapi::validate`: both refuse
//! with the same words, and what we let through the daemon's schema lets through too.
//!
//! Nothing is ever opened: commands that could do something get only what we refuse; the others name
//! nodes and jobs that are not there.

use super::daemon::Daemon;
use sectora_core::qapi::schema::{Builtin, Member, Schema, Shape, holds};
use sectora_core::qapi::{self, Command};
use serde_json::{Map, Value, json};

/// Commands whose arguments fail after they have passed the schema.
const HARMLESS: [&str; 26] = [
    "block-commit",
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-clear",
    "block-dirty-bitmap-merge",
    "block-dirty-bitmap-remove",
    "block-export-add",
    "block-export-del",
    "block-job-cancel",
    "block-job-change",
    "block-job-set-speed",
    "block-set-write-threshold",
    "block-stream",
    "block_resize",
    "blockdev-add",
    "blockdev-backup",
    "blockdev-del",
    "blockdev-mirror",
    "blockdev-reopen",
    "blockdev-snapshot",
    "change-backing-file",
    "job-cancel",
    "job-pause",
    "nbd-server-remove",
    "object-del",
    "qom-get",
    "transaction",
];

/// Members of the schema that the installed daemon (10.0.2) does not know.
const NEWER: [(&str, &str); 3] = [
    ("BlockdevBackup", "on-cbw-error"),
    ("DriveBackup", "on-cbw-error"),
    ("BlockdevMirror", "target-is-zero"),
];

/// Commands that the installed daemon does not have, or not after its greeting.
const ABSENT: [&str; 1] = ["qmp_capabilities"];

/// So many attempts a member of a command's arguments.
const ROUNDS: usize = 60;

pub(crate) fn check() -> Vec<String> {
    let mut daemon = match Daemon::start() {
        Ok(daemon) => daemon,
        Err(e) => return vec![e],
    };
    let mut dice = Dice(0x5ec7_0a4a);
    let (mut findings, mut refused, mut passed) = (Vec::new(), 0, 0);
    for command in qapi::commands().filter(|c| !ABSENT.contains(&c.name)) {
        let Some(schema) = command.arguments.map(|a| a()) else {
            let sent = json!({"x": 1});
            let mut ours = Map::from_iter([("x".to_owned(), json!(1))]);
            let ours = command.validate(&mut ours).err().map(|e| e.desc);
            let theirs = daemon.execute(command.name, &sent).err().unwrap_or_default();
            if theirs["desc"].as_str() != ours.as_deref() {
                findings.push(format!("{}: ours: {ours:?}; theirs: {theirs}", command.name));
            }
            continue;
        };
        // The widest types get the most attempts.
        let rounds = ROUNDS * schema.members().len().min(12);
        let rounds = if schema.branches().is_some() { rounds * 3 } else { rounds };
        for _ in 0..rounds {
            let arguments = sample(command, schema, &mut dice);
            let mut ours = arguments.clone();
            let ours = command.validate(&mut ours);
            let harmless = HARMLESS.contains(&command.name);
            if ours.is_ok() && !harmless {
                continue;
            }
            let sent = Value::Object(arguments);
            let theirs = match daemon.execute(command.name, &sent) {
                Ok(_) => None,
                Err(e) if e.is_string() => return vec![format!("{}: {e}: {sent}", command.name)],
                Err(e) => Some(e),
            };
            let finding = match (&ours, &theirs) {
                (Err(ours), Some(theirs)) => {
                    refused += 1;
                    let same =
                        theirs["desc"] == ours.desc.as_str() && theirs["class"] == "GenericError";
                    (!same).then(|| format!("ours: {ours}; theirs: {theirs}"))
                }
                (Err(ours), None) => Some(format!("ours: {ours}; theirs: accepted")),
                (Ok(()), None) => Some("accepted by both: it is not harmless".into()),
                (Ok(()), Some(theirs)) => {
                    passed += 1;
                    let text = theirs["desc"].as_str().unwrap_or_default();
                    is_of_the_schema(text).then(|| format!("ours: accepted; theirs: {theirs}"))
                }
            };
            findings.extend(finding.map(|f| format!("{} {sent}: {f}", command.name)));
        }
    }
    if findings.is_empty() && (refused < 3000 || passed < 300) {
        findings.push(format!("only {refused} were refused, and {passed} let through"));
    }
    findings.truncate(40);
    findings
}

/// True for a text that only the schema's checks give.
fn is_of_the_schema(text: &str) -> bool {
    let parameter = text.starts_with("Parameter '");
    text.starts_with("Invalid parameter type for '")
        || (parameter && [" is missing", " is unexpected"].iter().any(|end| text.ends_with(end)))
        || (parameter && text.contains("' does not accept value '"))
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Arguments with mistakes in places, and sometimes with none.
fn sample(command: &Command, schema: &'static Schema, dice: &mut Dice) -> Map<String, Value> {
    let mistakes = *dice.of(&[6, 15, 40, usize::MAX]);
    let mut out = object(schema, dice, mistakes, 0);
    match command.name {
        // Without a name at the top nothing is opened.
        "blockdev-add" => drop(out.remove("node-name")),
        // The first action fails, so none has an effect.
        "transaction" => {
            if let Some(Value::Array(actions)) = out.get_mut("actions") {
                actions.insert(0, json!({"type": "abort", "data": {}}));
            }
        }
        // A name that is there.
        "blockdev-reopen" => {
            if let Some(Value::Array(nodes)) = out.get_mut("options") {
                let named = nodes.iter_mut().filter_map(Value::as_object_mut);
                for node in named {
                    node.entry("node-name").or_insert(json!("none"));
                }
                if nodes.is_empty() {
                    nodes.push(json!({"driver": "null-co", "node-name": "none"}));
                }
            }
        }
        _ => {}
    }
    out
}

fn object(
    schema: &'static Schema,
    dice: &mut Dice,
    mistakes: usize,
    depth: usize,
) -> Map<String, Value> {
    let mut out = Map::new();
    members(schema, dice, mistakes, depth, &mut out);
    if dice.one_in(mistakes) {
        // One alone: of several the daemon picks by a hash.
        out.insert((*dice.of(&["x", "", "node_name", "driver.x"])).into(), json!(1));
    }
    out
}

fn members(
    schema: &'static Schema,
    dice: &mut Dice,
    mistakes: usize,
    depth: usize,
    out: &mut Map<String, Value>,
) {
    for member in schema.members().into_iter().filter(|m| holds(m.condition)) {
        if is_newer(schema, member) {
            continue;
        }
        let optional = member.optional && !dice.one_in(if depth > 3 { 12 } else { 4 });
        // The daemon finds members of another branch in the order of a hash, so tags stay.
        let is_tag = schema.branches().is_some_and(|(tag, _)| tag.name == member.name);
        if optional || (!is_tag && dice.one_in(mistakes.saturating_mul(2))) {
            continue;
        }
        let value = value((member.kind)(), dice, mistakes, depth + 1);
        out.insert(member.name.into(), value);
    }
    let Some((tag, variants)) = schema.branches() else { return };
    let case = out.get(tag.name).and_then(Value::as_str);
    let kind = variants.iter().find(|v| Some(v.case) == case).and_then(|v| v.kind);
    if let Some(kind) = kind {
        members(kind(), dice, mistakes, depth, out);
    }
}

fn is_newer(schema: &Schema, member: &Member) -> bool {
    NEWER.contains(&(schema.name, member.name))
}

fn value(schema: &'static Schema, dice: &mut Dice, mistakes: usize, depth: usize) -> Value {
    if dice.one_in(mistakes) {
        let wrong = [
            json!(null),
            json!(true),
            json!(7),
            json!(-7),
            json!(1.5),
            json!("s"),
            json!([]),
            json!({}),
        ];
        return dice.of(&wrong).clone();
    }
    match &schema.shape {
        Shape::Builtin(kind) => match kind {
            Builtin::Str => json!(dice.of(&["none", "n", "1"])),
            Builtin::Bool => json!(dice.one_in(2)),
            Builtin::Null => json!(null),
            Builtin::Any | Builtin::Number => json!(1.5),
            Builtin::Int => dice.of(&[json!(0), json!(-1), json!(i64::MIN), json!(4096)]).clone(),
            Builtin::Size | Builtin::Uint64 => {
                dice.of(&[json!(0), json!(-1), json!(u64::MAX), json!(65536)]).clone()
            }
            Builtin::Ranged(low, high, _) => {
                let within = [json!(low), json!(high), json!(1)];
                let without = [json!(low - 1), json!(high + 1), json!(u64::MAX), json!(i64::MIN)];
                let is_wrong = dice.one_in(mistakes);
                dice.of(if is_wrong { &without[..] } else { &within[..] }).clone()
            }
        },
        Shape::Enum(values) => {
            let there: Vec<&str> =
                values.iter().filter(|v| holds(v.condition)).map(|v| v.name).collect();
            json!(if dice.one_in(mistakes) { "nope" } else { *dice.of(&there) })
        }
        Shape::Array(element) => {
            let length = dice.below(if depth > 4 { 2 } else { 4 });
            Value::Array((0..length).map(|_| value(element(), dice, mistakes, depth + 1)).collect())
        }
        Shape::Alternate(choices) => {
            let choices: Vec<_> = choices.iter().map(|c| (c.kind)()).collect();
            // Deep down a name is enough.
            let flat: Vec<_> = choices
                .iter()
                .copied()
                .filter(|kind| depth < 4 || !matches!(kind.shape, Shape::Object(_)))
                .collect();
            value(flat[dice.below(flat.len())], dice, mistakes, depth)
        }
        Shape::Object(_) | Shape::Union { .. } => {
            Value::Object(object(schema, dice, mistakes, depth))
        }
    }
}
