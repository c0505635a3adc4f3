//! Counts of what a fault suite did.

use std::fmt;

/// How many faults were injected, and how many lost a state or changed a byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Faults injected.
    pub injected: u64,
    /// After which no acknowledged state was found.
    pub lost: u64,
    /// After which a state or an output differed from the undisturbed one.
    pub different: u64,
    first: Option<String>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one injected fault.
    pub fn inject(&mut self) {
        self.injected += 1;
    }

    /// Counts a lost state; `what` says how to repeat it.
    pub fn lose(&mut self, what: impl Into<String>) {
        self.lost += 1;
        self.first.get_or_insert(what.into());
    }

    /// Counts a differing state; `what` says how to repeat it.
    pub fn differ(&mut self, what: impl Into<String>) {
        self.different += 1;
        self.first.get_or_insert(what.into());
    }

    /// Adds another suite's counts.
    pub fn add(&mut self, other: &Tally) {
        self.injected += other.injected;
        self.lost += other.lost;
        self.different += other.different;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }

    /// Whether nothing was lost and nothing differed.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.different == 0
    }

    /// How to repeat the first loss or difference.
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// The line in which a test tells its count: the row of the fault list, what was done, the counts.
    pub fn line(&self, row: u8, what: &str) -> String {
        format!("row {row}: {what}: {self}")
    }

    /// Reads what [`Tally::line`] made, wherever it stands in `line`: the row, what was done, the counts.
    pub fn parse_line(line: &str) -> Option<(u8, &str, Tally)> {
        let tally = Self::parse(line)?;
        let (before, _) = line.split_once(": faults: ")?;
        let (_, told) = before.split_once("row ")?;
        let (row, what) = told.split_once([':', ','])?;
        Some((row.parse().ok()?, what.trim(), tally))
    }

    /// Reads the line that [`Tally`] prints, wherever it stands in `line`.
    pub fn parse(line: &str) -> Option<Tally> {
        let (_, rest) = line.split_once("faults: ")?;
        let mut counts = rest.split(", ").map(|part| {
            let (number, what) = part.trim().split_once(' ')?;
            Some((number.parse::<u64>().ok()?, what.to_owned()))
        });
        let mut next = |want: &str| {
            counts
                .next()
                .flatten()
                .filter(|(_, what)| what.starts_with(want))
        };
        let (injected, _) = next("injected")?;
        let (lost, _) = next("lost")?;
        let (different, _) = next("different")?;
        Some(Tally {
            injected,
            lost,
            different,
            first: None,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            injected,
            lost,
            different,
            ..
        } = self;
        write!(
            f,
            "faults: {injected} injected, {lost} lost, {different} different"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn printed_counts_are_read_back() {
        let mut tally = Tally::new();
        tally.inject();
        tally.inject();
        tally.lose("first");
        tally.differ("second");
        let line = format!("suite: {tally} (and more, as 7 lost)");
        let read = Tally::parse(&line).unwrap();
        assert_eq!((read.injected, read.lost, read.different), (2, 1, 1));
        assert_eq!((tally.first(), tally.is_clean()), (Some("first"), false));
        assert_eq!(Tally::parse("faults: many"), None);
        let line = format!("..{} and more", tally.line(23, "flipped bits"));
        let (row, what, read) = Tally::parse_line(&line).unwrap();
        assert_eq!((row, what, read.injected), (23, "flipped bits", 2));
        assert_eq!(Tally::parse_line(&tally.to_string()), None);
    }
}
