//! The runs of all lines: printed with their medians, and as ratios.

use std::collections::HashMap;

use super::measure::Line;

/// The runs so far.
#[derive(Default)]
pub struct Report {
    /// In order.
    lines: Vec<String>,
    runs: HashMap<String, Vec<Line>>,
}

/// The lines of sidecars in turns, for users with so many meta values: the first declares nothing.
pub fn declared_names(meta: usize, connections: usize) -> [String; 2] {
    let of = |what| format!("in turns, {what}, {meta} meta a user, {connections} connections");
    [of("nothing declared"), of("two fields and a role claim")]
}

impl Report {
    /// Adds a run.
    pub fn note(&mut self, what: &str, line: Line) {
        eprintln!("  {what}: {:.0}/s", line.rate);
        if !self.runs.contains_key(what) {
            self.lines.push(what.to_owned());
        }
        self.runs.entry(what.to_owned()).or_default().push(line);
    }

    /// Prints the medians, and the ratios with their goals.
    pub fn print(&self) {
        Line::print_head();
        let medians: HashMap<&str, Line> =
            self.runs.iter().map(|(what, runs)| (what.as_str(), Line::median(runs))).collect();
        for what in &self.lines {
            medians[what.as_str()].print(what);
        }
        let rate = |what: &str| medians.get(what).map(|line| line.rate);
        let p50 = |what: &str| medians.get(what).map(|line| line.p50);
        let best = [1, 4, 16, 64].iter().filter_map(|count| rate(&format!("bare database, {count} connections")));
        let best = best.max_by(f64::total_cmp);
        let php = rate("PHP, 64 connections");
        let small = rate("sidecar, 64 connections");
        println!("\n{:66} {:>8} {:>8}", "ratios", "measured", "goal");
        let flooded = |kind: &str| {
            (rate(&format!("million rows, {kind}, in a flood")), rate(&format!("million rows, {kind}, 64 connections")))
        };
        let [plain, declared] = declared_names(15, 256).map(|name| rate(&name));
        let ((index_flooded, index), (map_flooded, map)) = (flooded("index"), flooded("no index"));
        for (what, measured, of, goal) in [
            ("to PHP, 64 connections", small, php, ">= 60"),
            ("to PHP, 256 connections", rate("sidecar, 256 connections"), php, ">= 80"),
            ("to PHP, 64 connections, no analytics", rate("no analytics, 64 connections"), php, ">= 100"),
            ("to PHP, 256 connections, no analytics", rate("no analytics, 256 connections"), php, ">= 120"),
            ("to the bare database's best", rate("sidecar, 256 connections"), best, ">= 2.5"),
            (
                "p50 of one connection to the bare transaction's",
                p50("sidecar, 1 connections"),
                p50("bare database, 1 connections"),
                "<= 1.3",
            ),
            ("a million rows with index to the small table", index, small, ">= 0.8"),
            ("a million rows without index to the small table", map, small, ">= 0.6"),
            ("good refreshes in a flood to without, index", index_flooded, index, ">= 0.67"),
            ("good refreshes in a flood to without, no index", map_flooded, map, ">= 0.67"),
            ("two fields and a role claim to nothing declared, 256 connections", declared, plain, ">= 0.9"),
            ("refusals of one token a second", rate("refusals of one token, 64 connections"), Some(1.0), ">= 20000"),
        ] {
            if let (Some(measured), Some(of)) = (measured, of) {
                println!("{what:66} {:8.2} {goal:>8}", measured / of);
            }
        }
    }
}
