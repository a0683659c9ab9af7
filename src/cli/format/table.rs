//! Tables without lines: headings, columns two spaces apart.

use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table,
};

use super::Tone;

/// A table being built.
pub struct Listing {
    table: Table,
    right: Vec<usize>,
    narrow: Vec<usize>,
}

/// One cell and its tone.
pub type Toned = (String, Tone);

impl Listing {
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(
            headings
                .iter()
                .map(|heading| Cell::new(heading).add_attribute(Attribute::Dim)),
        );
        // What is piped into another program is not broken into lines.
        let arrangement = if table.is_tty() {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        };
        table.set_content_arrangement(arrangement);
        table.enforce_styling();
        // Blanks at the end of a line must not be styled: they are cut off.
        table.style_text_only();
        Self {
            table,
            right: Vec::new(),
            narrow: Vec::new(),
        }
    }

    /// Columns of numbers.
    #[must_use]
    pub fn right(mut self, columns: &[usize]) -> Self {
        self.right.extend_from_slice(columns);
        self
    }

    /// Columns that never break: identifiers, states, times.
    #[must_use]
    pub fn narrow(mut self, columns: &[usize]) -> Self {
        self.narrow.extend_from_slice(columns);
        self
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Toned>) {
        self.table
            .add_row(cells.into_iter().map(|(text, tone)| toned(&text, tone)));
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.row_count() == 0
    }
}

fn toned(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Strong => cell.add_attribute(Attribute::Bold),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Busy => cell.fg(Color::DarkBlue),
        Tone::Warn => cell.fg(Color::DarkYellow),
        Tone::Bad => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
        Tone::Code => cell.fg(Color::DarkCyan),
    }
}

impl std::fmt::Display for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = self.table.clone();
        let columns = table.column_count();
        for index in 0..columns {
            let Some(column) = table.column_mut(index) else {
                continue;
            };
            column.set_padding((0, 2));
            if self.right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if self.narrow.contains(&index) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        for (position, line) in table.lines().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let mut listing = Listing::new(&["SYSTEM", "CALLS"]).right(&[1]);
        for (system, calls) in [("crm", "7"), ("badges", "1,204")] {
            listing.row([
                (system.to_owned(), Tone::Plain),
                (calls.to_owned(), Tone::Plain),
            ]);
        }
        let text = anstream::adapter::strip_str(&listing.to_string()).to_string();
        assert_eq!(text, "SYSTEM  CALLS\ncrm         7\nbadges  1,204");
    }
}
