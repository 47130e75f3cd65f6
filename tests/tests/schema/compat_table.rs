//! Reads `COMPAT.md`.

use super::project;

/// One row of a table.
pub(crate) struct Row {
    /// The heading of the section (`## …`) that it stands in.
    pub(crate) section: String,
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) status: String,
    /// Of drivers: whether images can be created, or `-`.
    pub(crate) create: Option<String>,
    /// Paths, each with the name of a test or without.
    pub(crate) evidence: Vec<(String, Option<String>)>,
    pub(crate) note: String,
}

impl Row {
    /// A finding about this row.
    pub(crate) fn finding(&self, what: impl std::fmt::Display) -> String {
        format!("COMPAT.md:{}: {} `{}`: {what}", self.line, self.section, self.name)
    }

    /// What it says of itself: the status, and of creation where that is a question.
    pub(crate) fn claims(&self) -> impl Iterator<Item = &str> {
        [self.status.as_str()].into_iter().chain(self.create.as_deref()).filter(|c| *c != "-")
    }
}

/// Everything that the page says.
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    /// Section, then how many are done, partial, missing, as the page counts them.
    pub(crate) totals: Vec<(String, [usize; 3])>,
}

/// Reads the page; what cannot be read is a finding.
pub(crate) fn read() -> Result<Page, Vec<String>> {
    let path = project().join("COMPAT.md");
    let text = std::fs::read_to_string(&path).map_err(|e| vec![format!("COMPAT.md: {e}")])?;
    parse(&text)
}

fn parse(text: &str) -> Result<Page, Vec<String>> {
    let mut page = Page { rows: Vec::new(), totals: Vec::new() };
    let (mut section, mut findings) = (String::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.to_owned();
        }
        let Some(inner) = line.strip_prefix("| ").and_then(|l| l.strip_suffix('|')) else {
            continue;
        };
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        let quoted = cells[0].strip_prefix('`').and_then(|c| c.strip_suffix('`'));
        if let Some(name) = quoted {
            let (create, rest) = match cells[..] {
                [_, _, create, evidence, note] => (Some(create.to_owned()), (evidence, note)),
                [_, _, evidence, note] => (None, (evidence, note)),
                _ => {
                    findings.push(format!("COMPAT.md:{}: {} cells", number + 1, cells.len()));
                    continue;
                }
            };
            page.rows.push(Row {
                section: section.clone(),
                line: number + 1,
                name: name.to_owned(),
                status: cells[1].to_owned(),
                create,
                evidence: rest.0.split_whitespace().map(evidence).collect(),
                note: rest.1.to_owned(),
            });
        } else if let [name, numbers @ ..] = &cells[..] {
            let numbers: Vec<usize> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
            if let Ok(numbers) = <[usize; 3]>::try_from(numbers) {
                page.totals.push(((*name).to_owned(), numbers));
            }
        }
    }
    if page.rows.len() < 100 {
        findings.push(format!("COMPAT.md: only {} rows read", page.rows.len()));
    }
    if findings.is_empty() { Ok(page) } else { Err(findings) }
}

/// `` `path` `` or `` `path::name` ``.
fn evidence(item: &str) -> (String, Option<String>) {
    let item = item.trim_matches(|c| c == '`' || c == ',');
    match item.split_once("::") {
        Some((path, name)) => (path.to_owned(), Some(name.to_owned())),
        None => (item.to_owned(), None),
    }
}
