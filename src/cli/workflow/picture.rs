//! A workflow as a picture: SVG by itself, or the language of Graphviz.
//!
//! Steps stand in rows: each one row below the lowest of those it needs. An arrow over several rows passes each of
//! them at a place of its own, so that it never runs behind a step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use engine::core::definition::{Definition, OnFailure, Step};

use super::super::format::markup::{escaped, quoted};
use super::graph::remarks;

/// Sizes, in pixels.
const MARGIN: f64 = 24.0;
const ROW_GAP: f64 = 46.0;
const COLUMN_GAP: f64 = 28.0;
const BOX_HEIGHT: f64 = 46.0;
const REMARK_HEIGHT: f64 = 17.0;
const BOX_WIDTH_MIN: f64 = 120.0;
/// Between two arrows that pass a row.
const PASS_WIDTH: f64 = 14.0;
/// The name above the picture, and a line about the workflow.
const TITLE_HEIGHT: f64 = 40.0;
const ABOUT_HEIGHT: f64 = 16.0;
const ABOUT_CHARS_MAX: usize = 68;
/// About how wide a character is: of a step's name, of what it uses, of a remark.
const NAME_WIDTH: f64 = 8.2;
const USES_WIDTH: f64 = 7.3;
const REMARK_WIDTH: f64 = 6.2;
const TITLE_WIDTH: f64 = 10.5;
/// The longest text in a box.
const TEXT_CHARS_MAX: usize = 48;
/// How often rows are put in order by what stands above and below them.
const SWEEPS: usize = 8;

/// The language of Graphviz.
#[must_use]
pub(super) fn dot(definition: &Definition) -> String {
    let mut text = format!("digraph {} {{\n", quoted(&definition.name));
    text.push_str("  rankdir=TB;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n");
    for step in &definition.steps {
        let mut label = format!("{}\n{}", step.id, step.work.uses());
        for remark in remarks(step) {
            let _ = write!(label, "\n{remark}");
        }
        let _ = writeln!(text, "  {} [label={}];", quoted(&step.id), quoted(&label));
    }
    for (from, to) in arrows(definition) {
        if let (Some(from), Some(to)) = (definition.steps.get(from), definition.steps.get(to)) {
            let _ = writeln!(text, "  {} -> {};", quoted(&from.id), quoted(&to.id));
        }
    }
    text.push('}');
    text
}

/// The needs that do not follow from others, as pairs of positions.
fn arrows(definition: &Definition) -> Vec<(usize, usize)> {
    let needs: Vec<Vec<usize>> = definition
        .steps
        .iter()
        .map(|step| step.needs.iter().map(|need| usize::from(need.0)).collect())
        .collect();
    let mut arrows = Vec::new();
    for (to, direct) in needs.iter().enumerate() {
        let mut above = BTreeSet::new();
        let mut open: Vec<usize> = direct
            .iter()
            .filter_map(|need| needs.get(*need))
            .flatten()
            .copied()
            .collect();
        while let Some(at) = open.pop() {
            if above.insert(at) {
                open.extend(needs.get(at).into_iter().flatten());
            }
        }
        let direct: BTreeSet<usize> = direct.iter().copied().collect();
        arrows.extend(direct.difference(&above).map(|from| (*from, to)));
    }
    arrows
}

/// What stands in a row: a step, or the place where an arrow passes.
#[derive(Debug, Clone, Copy)]
struct Cell {
    step: Option<usize>,
    row: usize,
    width: f64,
    /// The middle.
    x: f64,
}

struct Layout {
    cells: Vec<Cell>,
    rows: Vec<Vec<usize>>,
    /// From cell to cell, each one row down.
    links: Vec<(usize, usize)>,
    /// The cells each arrow goes through.
    paths: Vec<Vec<usize>>,
    width: f64,
    tops: Vec<f64>,
    heights: Vec<f64>,
}

/// The picture.
#[must_use]
pub(super) fn svg(definition: &Definition) -> String {
    let about = about(definition);
    let wide = |text: &str, character: f64| text.chars().count() as f64 * character;
    let head_width = about
        .iter()
        .map(|line| wide(line, REMARK_WIDTH))
        .fold(wide(&definition.name, TITLE_WIDTH), f64::max);
    let head_height = ABOUT_HEIGHT.mul_add(about.len() as f64, TITLE_HEIGHT + 10.0);
    let layout = Layout::of(definition, head_width, head_height);
    let bottom = layout.tops.last().zip(layout.heights.last());
    let height = bottom.map_or(head_height, |(top, height)| top + height) + MARGIN;
    let width = layout.width;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" role=\"img\" aria-label=\"{}\">",
        escaped(&definition.name)
    );
    text.push_str(STYLE);
    let _ = writeln!(
        text,
        "<text class=\"title\" x=\"{MARGIN}\" y=\"32\">{}</text>",
        escaped(&definition.name)
    );
    for (number, line) in about.iter().enumerate() {
        let y = ABOUT_HEIGHT.mul_add(number as f64, TITLE_HEIGHT + 10.0);
        let _ = writeln!(
            text,
            "<text class=\"remark\" x=\"{MARGIN}\" y=\"{y:.0}\">{}</text>",
            escaped(line)
        );
    }
    for path in &layout.paths {
        let _ = writeln!(
            text,
            "<path class=\"arrow\" d=\"{}\" marker-end=\"url(#head)\"/>",
            layout.line(path)
        );
    }
    for cell in &layout.cells {
        if let Some(step) = cell.step.and_then(|step| definition.steps.get(step)) {
            layout.step(cell, step, &mut text);
        }
    }
    text.push_str("</svg>");
    text
}

const STYLE: &str = "<style>
  .ground { fill: #ffffff } .box { fill: #f6f8fa; stroke: #57606a }
  .asks { fill: #fff8e5; stroke: #9a6700 } .arrow { fill: none; stroke: #8c959f; stroke-width: 1.4 }
  .tip { fill: #8c959f } text { fill: #1f2328; font-family: system-ui, sans-serif }
  .title { font-size: 18px; font-weight: 600 } .name { font-size: 14px; font-weight: 600 }
  .uses { font-size: 12px; fill: #0550ae; font-family: ui-monospace, monospace } .remark { font-size: 11.5px; fill: #57606a }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } .box { fill: #161b22; stroke: #6e7681 } .asks { fill: #272115; stroke: #bb8009 }
    .arrow { stroke: #6e7681 } .tip { fill: #6e7681 } text { fill: #e6edf3 } .uses { fill: #79c0ff } .remark { fill: #8b949e }
  }
</style>
<defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
<path class=\"tip\" d=\"M0 0L8 4L0 8z\"/></marker></defs>
<rect class=\"ground\" width=\"100%\" height=\"100%\"/>
";

/// What starts it and what it does at a failure, in lines that are not wider than a picture should be.
fn about(definition: &Definition) -> Vec<String> {
    let on = if definition.on.is_empty() {
        "started by hand".to_owned()
    } else {
        format!("started by {}", definition.started_by())
    };
    let failure = match definition.on_failure {
        OnFailure::Park => "stops at a failure",
        OnFailure::Undo => "takes back at a failure",
        OnFailure::Forward => "goes on past a failure",
    };
    let text = format!("{on} · {failure} · version {}", definition.hash.short());
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < ABOUT_CHARS_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

impl Layout {
    fn of(definition: &Definition, width_min: f64, head_height: f64) -> Self {
        let arrows = arrows(definition);
        let rows_of = rows_of(definition.steps.len(), &arrows);
        let mut layout = Self {
            cells: Vec::new(),
            rows: vec![Vec::new(); rows_of.iter().max().map_or(0, |last| last + 1)],
            links: Vec::new(),
            paths: Vec::new(),
            width: 0.0,
            tops: Vec::new(),
            heights: Vec::new(),
        };
        for (step, row) in rows_of.iter().enumerate() {
            let width = definition.steps.get(step).map_or(0.0, box_width);
            layout.cell(Some(step), *row, width);
        }
        for (from, to) in arrows {
            layout.arrow(from, to, &rows_of);
        }
        layout.order();
        layout.place(definition, width_min, head_height);
        layout
    }

    fn cell(&mut self, step: Option<usize>, row: usize, width: f64) -> usize {
        let index = self.cells.len();
        self.cells.push(Cell {
            step,
            row,
            width,
            x: 0.0,
        });
        if let Some(cells) = self.rows.get_mut(row) {
            cells.push(index);
        }
        index
    }

    /// Steps come first among the cells, so a step's position is its cell's.
    fn arrow(&mut self, from: usize, to: usize, rows: &[usize]) {
        let (first, last) = (rows.get(from).copied(), rows.get(to).copied());
        let mut path = vec![from];
        let mut at = from;
        for row in first.unwrap_or(0) + 1..last.unwrap_or(0) {
            let pass = self.cell(None, row, PASS_WIDTH);
            self.links.push((at, pass));
            path.push(pass);
            at = pass;
        }
        self.links.push((at, to));
        path.push(to);
        self.paths.push(path);
    }

    /// Puts every row in the order of the middles of what its cells are linked to, downwards and upwards in turn.
    fn order(&mut self) {
        let mut position: BTreeMap<usize, f64> = BTreeMap::new();
        for row in &self.rows {
            for (index, cell) in row.iter().enumerate() {
                position.insert(*cell, index as f64);
            }
        }
        for sweep in 0..SWEEPS {
            let down = sweep % 2 == 0;
            let count = self.rows.len();
            for turn in 0..count {
                let at = if down { turn } else { count - 1 - turn };
                let Some(row) = self.rows.get_mut(at) else {
                    continue;
                };
                let middle = |cell: usize| {
                    let linked: Vec<f64> = self
                        .links
                        .iter()
                        .filter_map(|(from, to)| match down {
                            true if *to == cell => position.get(from),
                            false if *from == cell => position.get(to),
                            _ => None,
                        })
                        .copied()
                        .collect();
                    if linked.is_empty() {
                        position.get(&cell).copied().unwrap_or(0.0)
                    } else {
                        linked.iter().sum::<f64>() / linked.len() as f64
                    }
                };
                let mut wanted: Vec<(f64, usize)> =
                    row.iter().map(|cell| (middle(*cell), *cell)).collect();
                wanted.sort_by(|a, b| a.0.total_cmp(&b.0));
                *row = wanted.into_iter().map(|(_, cell)| cell).collect();
                for (index, cell) in row.iter().enumerate() {
                    position.insert(*cell, index as f64);
                }
            }
        }
    }

    fn place(&mut self, definition: &Definition, width_min: f64, head_height: f64) {
        let span = |cells: &[usize], all: &[Cell]| -> f64 {
            let widths: f64 = cells
                .iter()
                .filter_map(|cell| all.get(*cell))
                .map(|cell| cell.width)
                .sum();
            widths + COLUMN_GAP * cells.len().saturating_sub(1) as f64
        };
        let widest = self
            .rows
            .iter()
            .map(|row| span(row, &self.cells))
            .fold(width_min, f64::max);
        self.width = MARGIN.mul_add(2.0, widest);
        let mut top = head_height;
        for row in &self.rows {
            let mut x = (self.width - span(row, &self.cells)) / 2.0;
            let mut height = BOX_HEIGHT;
            for cell in row {
                if let Some(cell) = self.cells.get_mut(*cell) {
                    cell.x = x + cell.width / 2.0;
                    x += cell.width + COLUMN_GAP;
                    if let Some(step) = cell.step.and_then(|step| definition.steps.get(step)) {
                        height = height.max(box_height(step));
                    }
                }
            }
            self.tops.push(top);
            self.heights.push(height);
            top += height + ROW_GAP;
        }
    }

    fn top(&self, row: usize) -> f64 {
        self.tops.get(row).copied().unwrap_or(0.0)
    }

    fn height(&self, row: usize) -> f64 {
        self.heights.get(row).copied().unwrap_or(0.0)
    }

    /// The curve of an arrow: down from one row to the next, straight past what it passes.
    fn line(&self, path: &[usize]) -> String {
        let mut line = String::new();
        for (from, to) in path.iter().zip(path.iter().skip(1)) {
            let (Some(from), Some(to)) = (self.cells.get(*from), self.cells.get(*to)) else {
                continue;
            };
            let start = self.top(from.row) + self.height(from.row);
            let end = self.top(to.row);
            if line.is_empty() {
                let _ = write!(line, "M{:.1} {start:.1}", from.x);
            } else {
                let _ = write!(line, "V{start:.1}");
            }
            let middle = f64::midpoint(start, end);
            let _ = write!(
                line,
                "C{:.1} {middle:.1} {:.1} {middle:.1} {:.1} {end:.1}",
                from.x, to.x, to.x
            );
        }
        line
    }

    fn step(&self, cell: &Cell, step: &Step, text: &mut String) {
        let (left, top) = (cell.x - cell.width / 2.0, self.top(cell.row));
        // Boxes of one row have one height, so that every arrow between two rows has room.
        let height = self.height(cell.row);
        let asks = matches!(step.work.uses(), "approval" | "task" | "wait_for");
        let class = if asks { "asks" } else { "box" };
        let _ = writeln!(
            text,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"7\"/>",
            cell.width
        );
        let mut line = |class: &str, below: f64, what: &str| {
            let _ = writeln!(
                text,
                "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left + 12.0,
                top + below,
                escaped(&shortened(what))
            );
        };
        line("name", 20.0, &step.id);
        line("uses", 37.0, step.work.uses());
        for (number, remark) in remarks(step).iter().enumerate() {
            line(
                "remark",
                REMARK_HEIGHT.mul_add(number as f64, 37.0 + REMARK_HEIGHT),
                remark,
            );
        }
    }
}

/// The row of each step: one below the lowest it needs.
fn rows_of(count: usize, arrows: &[(usize, usize)]) -> Vec<usize> {
    let mut rows = vec![0; count];
    // A definition has no cycle, so this many rounds are enough.
    for _ in 0..count {
        let mut moved = false;
        for (from, to) in arrows {
            let below = rows.get(*from).copied().unwrap_or(0) + 1;
            if let Some(row) = rows.get_mut(*to)
                && *row < below
            {
                *row = below;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    rows
}

fn box_width(step: &Step) -> f64 {
    let wide = |text: &str, character: f64| shortened(text).chars().count() as f64 * character;
    let remarks = remarks(step);
    let texts = [
        wide(&step.id, NAME_WIDTH),
        wide(step.work.uses(), USES_WIDTH),
    ];
    let remarks = remarks.iter().map(|remark| wide(remark, REMARK_WIDTH));
    texts
        .into_iter()
        .chain(remarks)
        .fold(BOX_WIDTH_MIN - 24.0, f64::max)
        + 24.0
}

fn box_height(step: &Step) -> f64 {
    REMARK_HEIGHT.mul_add(remarks(step).len() as f64, BOX_HEIGHT)
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= TEXT_CHARS_MAX * 4 && text.len() <= TEXT_CHARS_MAX {
        return text.to_owned();
    }
    super::super::format::shortened(text, TEXT_CHARS_MAX * 3)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    fn definition() -> Definition {
        let text = "name: t\nsteps:\n  - {id: last, uses: x, needs: [a, c]}\n  - {id: a, uses: x, needs: []}\n  - {id: b, uses: x, needs: [a]}\n  - {id: c, uses: x, needs: [b, a], if: '1 < 2'}\n";
        Definition::parse("t.yaml", text, &[], &|_| true).unwrap()
    }

    #[test]
    fn arrows_are_the_needs_that_follow_from_no_other() {
        assert_eq!(arrows(&definition()), [(3, 0), (1, 2), (2, 3)]);
        assert_eq!(rows_of(4, &arrows(&definition())), [3, 0, 1, 2]);
    }

    #[test]
    fn graphviz_reads_hostile_names() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
        let text = dot(&definition());
        assert!(text.contains("\"b\" -> \"c\";"), "{text}");
        assert!(!text.contains("\"a\" -> \"c\";"), "{text}");
    }

    #[test]
    fn an_arrow_passes_rows_at_a_place_of_its_own() {
        let text = "name: t\nsteps:\n  - {id: a, uses: x}\n  - {id: b, uses: x}\n  - {id: c, uses: x, needs: [a]}\n  - {id: d, uses: x, needs: [b, c]}\n  - {id: e, uses: x, needs: [d]}\n  - {id: f, uses: x, needs: [a]}\n  - {id: g, uses: x, needs: [e, f]}\n";
        let definition = Definition::parse("t.yaml", text, &[], &|_| true).unwrap();
        let layout = Layout::of(&definition, 0.0, 0.0);
        let long = layout.paths.iter().find(|path| path.len() > 2).unwrap();
        for pass in &long[1..long.len() - 1] {
            let pass = &layout.cells[*pass];
            let row = layout.rows[pass.row]
                .iter()
                .map(|cell| &layout.cells[*cell]);
            for other in row.filter(|other| other.step.is_some()) {
                assert!((other.x - pass.x).abs() > other.width / 2.0);
            }
        }
    }

    #[test]
    fn a_picture_is_well_formed_whatever_it_names() {
        assert_eq!(
            escaped("<a & \"b\">\u{1b}"),
            "&lt;a &amp; &quot;b&quot;&gt;\u{fffd}"
        );
        let picture = svg(&definition());
        for tag in ["svg", "style", "defs", "text"] {
            assert_eq!(
                picture.matches(&format!("<{tag}")).count(),
                picture.matches(&format!("</{tag}>")).count(),
                "{tag}"
            );
        }
        assert_eq!(picture.matches("class=\"arrow\"").count(), 3);
    }
}
