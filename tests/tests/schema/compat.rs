//! `COMPAT.md` says what is true: every name is there, and every claim has evidence.

use super::compat_table::{Row, read};
use super::project;
use super::qapi_schema::{Kind, Schema};
use std::collections::BTreeSet;
use std::path::Path;

const DRIVERS: &str = "Block drivers";
const STATUSES: [&str; 3] = ["done", "partial", "missing"];

/// The schema files whose commands and events have rows.
const FILES: [&str; 6] =
    ["block-core", "block-export", "job", "transaction", "control", "introspect"];

/// The sub-commands of the reference tool, which are in no schema.
const IMG: [&str; 15] = [
    "amend", "bench", "bitmap", "check", "commit", "compare", "convert", "create", "dd", "info",
    "map", "measure", "rebase", "resize", "snapshot",
];

/// Every claim is made in one of the three words and proven.
///
/// `done` names a test, which exists; `partial` names a test or the code, and its note says what is
/// there and what is not; `missing` names nothing.
pub(crate) fn evidence() -> Vec<String> {
    let page = match read() {
        Ok(page) => page,
        Err(findings) => return findings,
    };
    let mut findings = Vec::new();
    for row in &page.rows {
        let create_fits = row.create.as_deref().is_none_or(|c| c == "-" || STATUSES.contains(&c));
        if !STATUSES.contains(&row.status.as_str()) || !create_fits {
            findings.push(row.finding("the status is none of done, partial, missing"));
            continue;
        }
        if row.note.is_empty() {
            findings.push(row.finding("has no note"));
        }
        if row.status == "missing" && row.claims().any(|c| c != "missing") {
            findings.push(row.finding("cannot be opened, yet created?"));
        }
        let claims: BTreeSet<&str> = row.claims().filter(|c| *c != "missing").collect();
        if claims.is_empty() != row.evidence.is_empty() {
            findings.push(row.finding(if claims.is_empty() {
                "is missing, yet has evidence"
            } else {
                "has no evidence"
            }));
        }
        if claims.contains("done") && !row.evidence.iter().any(|(_, test)| test.is_some()) {
            findings.push(row.finding("is done without a test (`path::name`)"));
        }
        if claims.contains("partial") && !row.note.contains("not") && !row.note.contains("no ") {
            findings.push(row.finding("is partial, and the note does not say what is not there"));
        }
        for (path, test) in &row.evidence {
            if let Some(what) = lacks(&project(), path, test.as_deref()) {
                findings.push(row.finding(what));
            }
        }
    }
    findings
}

/// What is wrong with a piece of evidence, if anything.
fn lacks(project: &Path, path: &str, test: Option<&str>) -> Option<String> {
    let full = project.join(path);
    if path.starts_with('/') || path.contains("..") || !full.exists() {
        return Some(format!("{path} is not there"));
    }
    let test = test?;
    let Ok(text) = std::fs::read_to_string(&full) else {
        return Some(format!("{path} is not a file with tests"));
    };
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.iter().enumerate().any(|(i, line)| {
        if path.ends_with(".rs") {
            // A function under a test attribute, or a name in a table of tests.
            let attribute = lines[i.saturating_sub(3)..i].iter().any(|l| {
                let l = l.trim();
                l.starts_with("#[") && l.contains("test")
            });
            line.contains(&format!("fn {test}(")) && attribute
                || line.contains(&format!("\"{test}\""))
        } else {
            ["\"", "'", "`"].iter().any(|q| line.contains(&format!("{q}{test}{q}")))
        }
    });
    (!found).then(|| format!("{path} has no test {test}"))
}

/// A driver that is in the code has a row that does not say "missing".
///
/// The code is asked by its folders: one folder (or file) a driver in each of these.
pub(crate) fn drivers() -> Vec<String> {
    let page = match read() {
        Ok(page) => page,
        Err(findings) => return findings,
    };
    let mut findings = Vec::new();
    for folder in ["core/src/format", "core/src/filter", "native/src/protocol"] {
        let Ok(entries) = std::fs::read_dir(project().join(folder)) else { continue };
        for entry in entries.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.path().is_dir();
            // In `format` the files beside the folders are the shared engine.
            if !is_folder && (folder.ends_with("format") || !file.ends_with(".rs")) {
                continue;
            }
            let module = file.trim_end_matches(".rs");
            // What filters have in common is no driver.
            if ["mod", "tests", "forward", "release", "settle", "testing"].contains(&module) {
                continue;
            }
            let driver = match module {
                // One module for both drivers of the kind.
                "null" => "null-co".to_owned(),
                _ => module.replace('_', "-"),
            };
            let row = page.rows.iter().find(|r| {
                r.section == DRIVERS && (r.name == driver || r.name.replace('_', "-") == driver)
            });
            match row {
                None => findings.push(format!("{folder}/{file} is no driver of COMPAT.md")),
                Some(row) if row.status == "missing" => {
                    findings.push(row.finding(format!("is in {folder}/{file}")));
                }
                Some(_) => {}
            }
        }
    }
    findings
}

/// The totals at the top are those of the tables.
pub(crate) fn totals() -> Vec<String> {
    let page = match read() {
        Ok(page) => page,
        Err(findings) => return findings,
    };
    let mut sections: Vec<&str> = Vec::new();
    for row in &page.rows {
        if !sections.contains(&row.section.as_str()) {
            sections.push(&row.section);
        }
    }
    let counted: Vec<(String, [usize; 3])> = sections
        .iter()
        .map(|section| {
            let of = |status: &str| {
                let rows = page.rows.iter().filter(|r| r.section == *section);
                rows.filter(|r| r.status == status).count()
            };
            ((*section).to_owned(), STATUSES.map(of))
        })
        .collect();
    if counted == page.totals {
        return Vec::new();
    }
    let lines = counted.iter().map(|(s, [d, p, m])| format!("| {s} | {d} | {p} | {m} |"));
    vec!["COMPAT.md: the totals should be".into()].into_iter().chain(lines).collect()
}

/// The tables have the schema's names: all, once, and no others.
pub(crate) fn names(schema: &Schema) -> Vec<String> {
    let page = match read() {
        Ok(page) => page,
        Err(findings) => return findings,
    };
    let definitions = |kind| {
        let of_kind = schema.of_kind(kind);
        of_kind.filter(|d| FILES.contains(&d.file.as_str())).map(|d| d.name.clone()).collect()
    };
    let values = |name: &str| schema.get(name).map(|d| d.values()).unwrap_or_default();
    let expected: [(&str, Vec<String>); 6] = [
        ("qemu-img sub-commands", IMG.map(str::to_owned).into()),
        (DRIVERS, values("BlockdevDriver")),
        ("Commands", definitions(Kind::Command)),
        ("Events", definitions(Kind::Event)),
        ("Transaction actions", values("TransactionActionKind")),
        ("Export types", values("BlockExportType")),
    ];
    let mut findings = Vec::new();
    for (section, names) in &expected {
        if names.is_empty() {
            findings.push(format!("the schema has no {section}: the parser lost them"));
        }
        let rows: Vec<&Row> = page.rows.iter().filter(|r| r.section == *section).collect();
        for name in names {
            match rows.iter().filter(|r| r.name == *name).count() {
                0 => findings.push(format!("COMPAT.md: {section}: `{name}` has no row")),
                1 => {}
                n => findings.push(format!("COMPAT.md: {section}: `{name}` has {n} rows")),
            }
        }
        let unknown = rows.iter().filter(|r| !names.contains(&r.name));
        findings.extend(unknown.map(|r| r.finding("is not in the schema")));
    }
    let known = |row: &&Row| !expected.iter().any(|(section, _)| row.section == *section);
    findings.extend(page.rows.iter().filter(known).map(|r| r.finding("no such section")));
    findings.extend(create_column(schema, &page.rows));
    findings
}

/// Drivers that can create are those with creation options.
fn create_column(schema: &Schema, rows: &[Row]) -> Vec<String> {
    let options = schema.get("BlockdevCreateOptions").map(|d| d.branches()).unwrap_or_default();
    let mut findings = Vec::new();
    if options.len() < 10 {
        findings.push("the schema has no creation options: the parser lost them".into());
    }
    for row in rows.iter().filter(|r| r.section == DRIVERS) {
        let creates = options.iter().any(|(name, _)| *name == row.name);
        if creates == (row.create.as_deref() == Some("-")) {
            findings.push(row.finding(format!("creation options in the schema: {creates}")));
        }
    }
    findings
}
