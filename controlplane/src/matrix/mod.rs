//! Segments × segments with what may cross, as data; [`text`], [`dot`] and [`html`] show it.

pub mod dot;
pub mod html;
pub mod text;

use std::collections::HashMap;

use bulkhead_dataplane::policy::Action;
use serde::{Deserialize, Serialize};

use crate::algebra::atlas::spans_of_rules;
use crate::algebra::compare::{existing, question};
use crate::algebra::forms::{self, line};
use crate::algebra::solve::{Question, is_conditional};
use crate::algebra::{Atlas, Clause, Demands, Forms, Policy, TooLarge};
use crate::model::{Model, probe_text};
use crate::plan::{Symbols, words};

/// Who may open connections to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// The file, or what else it is.
    pub source: String,
    /// All segments, by name.
    pub segments: Vec<String>,
    /// What is said between pairs of segments: each treatment once.
    pub treatments: Vec<Vec<Treated>>,
    /// Pairs between which something may cross, by source, then by destination.
    pub cells: Vec<Cell>,
}

/// A pair of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The source, an index of [`Matrix::segments`].
    pub from: u32,
    /// The destination.
    pub to: u32,
    /// An index of [`Matrix::treatments`].
    pub treatment: u32,
}

/// Services that are treated alike, and allowed to some or to all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Treated {
    /// Protocols and ports.
    pub services: Vec<String>,
    /// Whether it depends on who asks, or when.
    pub conditional: bool,
    /// The rules in the order they are asked.
    pub rules: Vec<String>,
    /// Where the deciding rules stand: `path:line:column`.
    pub places: Vec<String>,
    /// A packet that is allowed, and who sends it.
    pub packet: String,
}

impl Matrix {
    /// Of a model.
    ///
    /// # Errors
    ///
    /// The policy is too large.
    pub fn of(model: &Model) -> Result<Matrix, TooLarge> {
        let mut symbols = Symbols::default();
        let rules = symbols.translate(model);
        let effects = vec![0; rules.rules.len()];
        let mut atlas = Atlas::new([Policy { rules: &rules, effects: &effects }], symbols.moments())?;
        let mut found = Vec::new();
        atlas.visit(|row, column, content| found.push((row, column, content.clone())))?;
        let spans = spans_of_rules(&rules);
        let mut forms = Forms::default();
        let mut matrix = Matrix {
            source: if model.sources.is_empty() { String::new() } else { model.sources.file(0).path.clone() },
            segments: model.segments.iter().map(|segment| segment.name.clone()).collect(),
            ..Matrix::default()
        };
        let mut known = HashMap::new();
        let mut numbers: HashMap<Vec<Treated>, u32> = HashMap::new();
        for (row, column, content) in found {
            let treatment = *known.entry(content.clone()).or_insert_with(|| {
                let clauses = atlas.clauses(0, &content);
                let of_clauses: Vec<&[(u32, u32)]> =
                    clauses.iter().map(|clause| spans[clause.rule.0 as usize].as_slice()).collect();
                let pieces = forms::pieces(&clauses, &of_clauses, &mut forms);
                let ends = (&atlas.rows[row as usize].samples, &atlas.columns[column as usize].samples);
                let mut treated = Vec::new();
                for (form, services) in by_form(&pieces, content.families) {
                    let clauses = forms.clauses(form);
                    let Some((conditional, who)) = allowed(clauses, &atlas.demands, &symbols) else {
                        continue;
                    };
                    let Some(query) = question(ends.0, ends.1, &services) else { continue };
                    treated.push(Treated {
                        services: words::services(&services),
                        conditional,
                        rules: words::treatment(clauses, &atlas.demands, &symbols, model),
                        places: clauses.iter().filter_map(|clause| model.rule_place(clause.rule)).collect(),
                        packet: format!(
                            "{}{who} → {} {}",
                            query.source,
                            query.destination,
                            probe_text(query.protocol, query.destination_port)
                        ),
                    });
                }
                if treated.is_empty() {
                    return None;
                }
                let next = numbers.len() as u32;
                Some(*numbers.entry(treated).or_insert(next))
            });
            let Some(treatment) = treatment else { continue };
            for source in &atlas.rows[row as usize].members {
                for destination in &atlas.columns[column as usize].members {
                    let from = atlas.sources[*source as usize].segments[0];
                    let to = atlas.destinations[*destination as usize].segments[0];
                    if let (Some(from), Some(to)) = (from, to) {
                        matrix.cells.push(Cell { from: from.0, to: to.0, treatment });
                    }
                }
            }
        }
        matrix.cells.sort_by_key(|cell| (cell.from, cell.to));
        let mut treatments: Vec<(Vec<Treated>, u32)> = numbers.into_iter().collect();
        treatments.sort_by_key(|(_, number)| *number);
        matrix.treatments = treatments.into_iter().map(|(treated, _)| treated).collect();
        Ok(matrix)
    }

    /// Only these segments, as sources and as destinations; all of them where nothing is named.
    pub fn narrowed(mut self, from: &[String], to: &[String]) -> Matrix {
        let is_wanted =
            |names: &[String], index: u32| names.is_empty() || names.contains(&self.segments[index as usize]);
        let cells = self.cells.iter().copied();
        self.cells = cells.filter(|cell| is_wanted(from, cell.from) && is_wanted(to, cell.to)).collect();
        self
    }

    /// The treatment of a pair.
    pub fn cell(&self, from: u32, to: u32) -> Option<u32> {
        let found = self.cells.binary_search_by_key(&(from, to), |cell| (cell.from, cell.to)).ok()?;
        Some(self.cells[found].treatment)
    }

    /// Segments that any cell is about: what a table needs to show.
    pub fn shown(&self, of: impl Fn(&Cell) -> u32) -> Vec<u32> {
        let mut shown: Vec<u32> = self.cells.iter().map(of).collect();
        shown.sort_unstable();
        shown.dedup();
        shown
    }
}

/// The services of every form that rules have a say in.
fn by_form(pieces: &forms::Pieces, families: [bool; 2]) -> Vec<(forms::FormId, Vec<(u32, u32)>)> {
    let mut found: Vec<(forms::FormId, Vec<(u32, u32)>)> = Vec::new();
    for (index, (start, form)) in pieces.iter().enumerate() {
        let end = pieces.get(index + 1).map_or(line::END, |(next, _)| *next);
        let spans = existing((*start, end - 1), families);
        match found.iter_mut().find(|(known, _)| known == form) {
            Some((_, known)) => known.extend(spans),
            None => found.push((*form, spans)),
        }
    }
    found.retain(|(_, spans)| !spans.is_empty());
    found
}

/// Whether these clauses allow anything to anybody: whether it depends on who, and somebody who may.
fn allowed(clauses: &[Clause], demands: &Demands, symbols: &Symbols) -> Option<(bool, String)> {
    if !is_conditional(clauses) {
        let decider = clauses.iter().find(|clause| clause.action != Action::Pass)?;
        return (decider.action == Action::Allow).then(|| (false, String::new()));
    }
    let mut question = Question::new(&[clauses], demands);
    let mut deciders = |allows: bool| {
        let all = clauses.iter().enumerate().filter(|(_, clause)| clause.action != Action::Pass);
        let fitting = all.filter(|(_, clause)| (clause.action == Action::Allow) == allows);
        let mut deciders: Vec<Option<usize>> = fitting.map(|(index, _)| Some(index)).collect();
        deciders.extend((!allows).then_some(None));
        deciders.into_iter().find_map(|decider| match question.decided_by(&[decider]) {
            Ok(Some(occasion)) => Some(words::occasion(&occasion, symbols)),
            Ok(None) => None,
            // What cannot be found out may be.
            Err(_) => Some(vec!["for some".to_owned()]),
        })
    };
    let who = deciders(true)?;
    let conditional = deciders(false).is_some();
    let who = if who.is_empty() { String::new() } else { format!(" ({})", who.join(", ")) };
    Some((conditional, who))
}

#[cfg(test)]
mod tests;
