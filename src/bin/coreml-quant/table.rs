//! Tables that fit the terminal.

use terminal_size::{Width, terminal_size_of};

/// The columns of the terminal that standard output is; `None` if it is none.
pub fn terminal_width() -> Option<usize> {
    terminal_size_of(std::io::stdout()).map(|(Width(width), _)| usize::from(width))
}

/// Which way a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows of cells under a header, aligned. Where they do not fit `width`, the first column is shortened in the middle, down
/// to a dozen characters.
pub fn table(columns: &[(&str, Align)], rows: &[Vec<String>], width: Option<usize>) -> String {
    const NARROWEST: usize = 12;
    let mut widths: Vec<usize> = columns.iter().map(|(name, _)| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let whole: usize = widths.iter().map(|width| width + 2).sum::<usize>().saturating_sub(2);
    if let (Some(width), Some(first)) = (width, widths.first_mut()) {
        *first = first.saturating_sub(whole.saturating_sub(width)).max(NARROWEST.min(*first));
    }
    let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for ((cell, &width), (_, align)) in row.iter().zip(&widths).zip(columns) {
            let cell = shorten(cell, width);
            line.push_str(&match align {
                Align::Left => format!("{cell:width$}  "),
                Align::Right => format!("{cell:>width$}  "),
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A text of at most `width` characters; what is cut out is in the middle, where names differ least.
pub fn shorten(text: &str, width: usize) -> String {
    let len = text.chars().count();
    if len <= width || width < 2 {
        return text.to_owned();
    }
    let front = (width - 1) / 2;
    let back = width - 1 - front;
    let start: String = text.chars().take(front).collect();
    let end: String = text.chars().skip(len - back).collect();
    format!("{start}…{end}")
}

/// A number with its thousands apart: 154,554.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio in decibels.
pub fn decibels(sqnr: f64) -> String {
    if sqnr == f64::INFINITY { "exact".to_owned() } else { format!("{sqnr:.1} dB") }
}

/// One number as a share of another, in percent.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (154_554, "154,554"), (1 << 30, "1,073,741,824")]
        {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shorten("model/block_1/conv", 9), "mode…conv");
        assert_eq!(shorten("short", 9), "short");
        let rows = vec![vec!["a".repeat(50), "12".to_owned()]];
        let text = table(&[("layer", Align::Left), ("bytes", Align::Right)], &rows, Some(40));
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(table(&[("layer", Align::Left)], &rows, None).contains(&"a".repeat(50)));
    }
}
