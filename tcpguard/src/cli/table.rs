//! Tables of aligned columns.

/// Formats `rows` under `headings` in aligned columns: numbers to the right, text to the left.
pub(super) fn table<const COLUMNS: usize>(headings: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let is_number: Vec<bool> = (0..COLUMNS)
        .map(|column| rows.iter().all(|row| row[column].chars().all(|c| c.is_ascii_digit() || ".-".contains(c))))
        .collect();
    let line = |cells: [&str; COLUMNS]| {
        let mut line = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let (before, after) = if is_number[column] { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(headings);
    for row in rows {
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["198.18.0.9".to_owned(), "7".to_owned()], ["::1".to_owned(), "1234".to_owned()]];
        assert_eq!(table(["SOURCE", "SYN"], &rows), "SOURCE       SYN\n198.18.0.9     7\n::1         1234\n");
    }
}
